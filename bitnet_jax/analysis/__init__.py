"""What the price is: quantization error, sensitivity, telemetry over Programs."""
