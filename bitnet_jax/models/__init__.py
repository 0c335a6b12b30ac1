"""Families of models: blocks, caches, and the names of their parameters."""
