"""The commands of `bitnet model`."""
