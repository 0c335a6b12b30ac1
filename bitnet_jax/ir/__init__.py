"""The Program: model spec, tracing, interpretation, verification, printing."""
