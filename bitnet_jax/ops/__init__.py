"""Operations: one folder per op; `select.py` is the only dispatch point."""
