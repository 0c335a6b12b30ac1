"""Files that `bitnet dev init` writes."""
