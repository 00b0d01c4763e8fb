"""Exported files opened: the same tensors, whatever the runtime, and the network and decoder that the rest is used to."""
