"""A file of rules per kind of primitive; `export/table.py` joins them."""
