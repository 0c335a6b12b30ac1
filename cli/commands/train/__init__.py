"""The commands of `bitnet train`."""
