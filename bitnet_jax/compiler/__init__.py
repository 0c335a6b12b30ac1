"""Compilation for a Target, and the receipt."""
