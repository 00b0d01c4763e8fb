"""Where a training run stands; some losses change with it."""

from typing import NamedTuple


class Progress(NamedTuple):
    """All counts from 0.  `step` is the step within the epoch."""

    epoch: int
    step: int
    num_epochs: int
    steps_per_epoch: int
