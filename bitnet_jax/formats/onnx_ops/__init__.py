"""ONNX operators as functions of arrays: a file for each kind, a row for each operator."""
