"""The engine behind HTTP; knows nothing of training."""
