"""The `bitnet` command line, installed as the package `bitnet_cli`."""
