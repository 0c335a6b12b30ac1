"""The commands of `bitnet dev`."""
