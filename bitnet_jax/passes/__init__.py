"""One file per pass over a Program: needs, does, leaves."""
