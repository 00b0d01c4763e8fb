"""Whole detectors: an image in, the raw outputs of the head out."""
