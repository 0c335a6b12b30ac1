"""Pipelines of passes, compilation for a Target, and the receipt."""
