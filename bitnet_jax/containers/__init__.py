"""Bytes to numpy and back, never jax: hostile input is refused here."""
