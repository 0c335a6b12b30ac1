"""The numerics contract: scales, trits, activations, packing, digests, rules."""
