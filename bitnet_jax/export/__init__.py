"""Program to ONNX and StableHLO."""
