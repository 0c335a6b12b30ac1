"""The commands of `bitnet bench`."""
