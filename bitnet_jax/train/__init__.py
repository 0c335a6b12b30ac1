"""Training: corpus, tokenizer, data, step, optimizer, loop. The only home of optax."""
