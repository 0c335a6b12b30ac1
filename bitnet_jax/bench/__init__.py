"""Measurements of speed and memory, with intervals; never of meaning."""
