"""The commands of `bitnet quant`."""
