"""The stated rule that recreates the checkpoints and inputs of the oracles from names and shapes alone.

Each tensor has a generator of its own, seeded by the CRC-32 of its name:
    two or more dimensions               normal, mean 0, variance 2 / fan-in
    one dimension, `var` in the name     uniform in [0.5, 1.5)
    one dimension, a norm's weight       uniform in [0.5, 1.5); also what is called alpha or scale
    one dimension, anything else         normal, mean 0, standard deviation 0.1
"""

import math
import zlib

import numpy as np


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value of the parameter or buffer called `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        value = rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif "var" in name or "alpha" in name or "scale" in name or name.endswith(".weight"):
        value = rng.uniform(0.5, 1.5, size=shape)
    else:
        value = 0.1 * rng.normal(size=shape)
    return value.astype(np.float32)


def oracle_input(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers that depend on `tag` only."""
    return np.random.default_rng(zlib.crc32(f"input:{tag}".encode())).normal(size=shape).astype(np.float32)
