"""Random numbers by their position: number j of sample i follows from a key, i and j, without any generator's state.

A generator object a sample costs more than cropping a picture of CIFAR; here the numbers of a whole batch come from a few
array operations, and those of one sample alone are the same bits.  So pictures transformed one by one in a loader's
worker equal those transformed in batches on a GPU.

The numbers are SplitMix64's (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): output n
of the generator with the seed s is a mix of s + n * GAMMA.  The key is s, and sample i owns the outputs from i * 256 + 1 on.
"""

from typing import Any

import numpy as np

from public.random_streams import derive

GAMMA = np.uint64(0x9E3779B97F4A7C15)
NUMBERS_A_SAMPLE = 256

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stream_key(seed: int, epoch: int, name: str) -> int:
    """The key of the numbers that the transform `name` draws in an epoch, for all samples."""
    return derive(seed, "sample", epoch, name)


def uniforms(key: int, samples: np.ndarray, num: int) -> np.ndarray:
    """The first `num` numbers of each sample, (B, num) float64, evenly from [0, 1).

    Args:
        key: of `stream_key`, 64 bits.
        samples: (B,) numbers of the samples, from 0.

    Raises:
        ValueError: `num` is more than a sample owns.
    """
    if not 0 <= num <= NUMBERS_A_SAMPLE:
        raise ValueError(f"{num} random numbers for a sample, which owns {NUMBERS_A_SAMPLE}")
    first = np.asarray(samples).astype(np.uint64) * np.uint64(NUMBERS_A_SAMPLE)
    positions = first[:, None] + np.arange(1, num + 1, dtype=np.uint64)  # (B, num)
    bits = outputs(key, positions)
    return (bits >> np.uint64(11)) * 2.0**-53


def outputs(seed: int, positions: np.ndarray) -> np.ndarray:
    """SplitMix64's outputs at `positions` (uint64, from 1), 64 bits each."""
    bits: Any = np.array([seed], dtype=np.uint64) + positions * GAMMA  # arrays wrap at 2**64, as they should
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))
