"""Errors, paths, trees, JAX compatibility: what everything else may import."""
