"""Constructs with bodies of their own: a file per kind, `table.py` lists them."""
