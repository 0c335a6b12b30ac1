"""The commands of `bitnet serve`."""
