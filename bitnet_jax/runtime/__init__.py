"""Tokenizer, sampling, generation, scoring."""
