"""Which samples make which batch: the batch samplers of training and evaluation.

They hand out `SampleKey`s, from which every random number of a sample follows, so the number of workers, their speed and a
restart change no bit.
"""

from collections.abc import Iterator

import numpy as np

from public.datasets.sample import COPY_SHIFT, RepeatedKey, SampleKey
from public.random_streams import stream


class TrainBatches:
    """This process's batches of the steps first_step .. num_steps - 1, over all epochs, as lists of `SampleKey`.

    Epoch e shows the images in the order of the stream (seed, "order", e).  Its global batch b is the slice
    [b * batch_size, (b + 1) * batch_size) of that order, and rank r takes the r-th of world_size equal parts.  What is
    left at the end of an epoch is not shown in it.

    Raises:
        ValueError: batch_size cannot be split evenly, is more than there are images, or the steps make no sense.
    """

    def __init__(
        self,
        *,
        num_images: int,
        batch_size: int,
        seed: int,
        first_step: int,
        num_steps: int,
        rank: int,
        world_size: int,
    ):
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size {batch_size} cannot be split evenly over {world_size} processes")
        if num_images < batch_size:
            raise ValueError(
                f"the training set has {num_images} images, fewer than one batch of {batch_size}; "
                "take a smaller batch_size or more images"
            )
        if not 0 <= first_step <= num_steps:
            raise ValueError(f"first_step {first_step} is not between 0 and num_steps {num_steps}")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.num_steps = num_steps
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        steps_per_epoch = self.num_images // self.batch_size
        share = self.batch_size // self.world_size
        epoch, order = -1, []
        for step in range(self.first_step, self.num_steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = self.order(epoch)
            batch = step % steps_per_epoch
            start = batch * self.batch_size + self.rank * share
            yield [self._key(epoch, batch, place) for place in order[start : start + share]]

    def order(self, epoch: int) -> list[int]:
        """What an epoch shows, in order: the numbers of the samples, see `sample_number`."""
        return stream(self.seed, "order", epoch).permutation(self.num_images).tolist()

    def _key(self, epoch: int, batch: int, number: int) -> SampleKey:
        return SampleKey(epoch, batch, number)


class EvalBatches:
    """This process's evaluation batches: batch i is images [i * b, (i + 1) * b), rank r takes batches r, r + W, ...

    Each image is in exactly one batch of one rank, and no batch depends on the number W of ranks; the last batch may be
    smaller.
    """

    def __init__(self, *, num_images: int, batch_size: int, rank: int, world_size: int):
        if batch_size < 1:
            raise ValueError(f"the evaluation's batch_size is {batch_size}, has to be at least 1")
        self.num_images = num_images
        self.batch_size = batch_size
        self.own_batches = range(rank, -(-num_images // batch_size), world_size)

    def __len__(self) -> int:
        return len(self.own_batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self.own_batches:
            start = batch * self.batch_size
            indices = range(start, min(start + self.batch_size, self.num_images))
            yield [SampleKey(0, batch, index) for index in indices]


class RepeatedTrainBatches(TrainBatches):
    """Repeated augmentation (Hoffer et al., 1901.09335): each picture of a global batch is in it `repeats` times.

    The copies are transformed each in its own way.  As in DeiT (2012.12877) an epoch keeps its number of steps, so it shows
    a part 1 / repeats of the pictures, the first of its order.  Place p of a global batch is copy p // D of picture p % D
    of its D = batch_size / repeats different ones.

    Raises:
        ValueError: as `TrainBatches`; or batch_size is no multiple of `repeats`.
    """

    def __init__(self, *, repeats: int, **arguments):
        super().__init__(**arguments)
        if repeats < 1 or self.batch_size % repeats:
            raise ValueError(f"batch_size {self.batch_size} cannot be made of {repeats} copies of each picture")
        self.num_different = self.batch_size // repeats

    def __iter__(self) -> Iterator[list[RepeatedKey]]:  # type: ignore[override]  # a RepeatedKey is a SampleKey with one more entry
        steps_per_epoch = self.num_images // self.batch_size
        share = self.batch_size // self.world_size
        epoch, order = -1, []
        for step in range(self.first_step, self.num_steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = self.order(epoch)
            batch = step % steps_per_epoch
            start = batch * self.num_different
            places = range(self.rank * share, (self.rank + 1) * share)
            copies = (divmod(place, self.num_different) for place in places)
            yield [RepeatedKey(epoch, batch, order[start + number], copy) for copy, number in copies]


class BalancedTrainBatches(TrainBatches):
    """Pictures of rare classes oftener than others, by the factors of `public.datasets.balanced` (Gupta et al., 1908.03195).

    An epoch keeps its number of places N, so that the number of steps stays what it is: picture i is expected
    e(i) = factors(i) * N / (sum of all factors) times in it.  It is there floor(e(i)) or ceil(e(i)) times: as often as there
    are whole numbers k with E(i - 1) <= k + u < E(i), where E adds up the expectations and u of [0, 1) is drawn from the
    stream (seed, "repeat", epoch).  The copies are then shuffled as the pictures of a plain epoch are, and each is
    transformed in its own way.

    Args:
        factors: (num_images,) above 0.
    """

    def __init__(self, *, factors: np.ndarray, **arguments):
        super().__init__(**arguments)
        self.ends = np.cumsum(factors) * (self.num_images / np.sum(factors))

    def counts(self, epoch: int) -> np.ndarray:
        """(num_images,) how often an epoch shows each picture; together num_images."""
        ends = np.ceil(self.ends - stream(self.seed, "repeat", epoch).random()).astype(np.int64)
        ends[-1] = self.num_images  # which rounding may have missed
        return np.diff(ends, prepend=0)

    def order(self, epoch: int) -> list[int]:
        counts = self.counts(epoch)
        indices = np.repeat(np.arange(self.num_images), counts)
        copies = np.arange(self.num_images) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = indices + (copies << COPY_SHIFT)
        return numbers[super().order(epoch)].tolist()

    def _key(self, epoch: int, batch: int, number: int) -> RepeatedKey:  # type: ignore[override]  # a RepeatedKey is a SampleKey with one more entry
        return RepeatedKey(epoch, batch, number & ((1 << COPY_SHIFT) - 1), number >> COPY_SHIFT)
