"""Foreign checkpoints: reading them safely and giving their tensors our names."""
