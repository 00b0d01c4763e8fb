"""Every random number of the project, by name.

One seed per run; each stream is derived from it and from the name of what it is for, never from how many numbers were
drawn before.  So the number of workers, a restart, or another process cannot shift a stream:

    a sample     (seed, "sample", epoch, index, name of the transform)
    a batch      (seed, "batch", epoch, batch, name of the transform)
    an order     (seed, "order", epoch)
    torch's      (seed, "model") before the model is built, (seed, "step", step, rank) at the start of each step

Python's and numpy's global generators are not used anywhere.
"""

import hashlib
from operator import index

import numpy as np
import torch


def derive(seed: int, *names: int | str) -> int:
    """A 64-bit integer that depends on `seed` and on every one of `names`, their types and their order.

    Raises:
        TypeError: a name is neither a string nor an integer.
    """
    text = repr((index(seed), *(name if isinstance(name, str) else index(name) for name in names))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def stream(seed: int, *names: int | str) -> np.random.Generator:
    """An independent numpy generator for (`seed`, `names`)."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def seed_torch(seed: int, *names: int | str) -> None:
    """Sets torch's generators, on CPU and GPU, to the stream (`seed`, `names`)."""
    torch.manual_seed(derive(seed, *names) % 2**63)
