"""Medians, bootstrap, interleaving; knows nothing of models."""
