"""Where a training run stands; some losses change with it."""

from typing import NamedTuple


class Progress(NamedTuple):
    """All counts from 0."""

    epoch: int
    step: int  # optimizer steps done before this one, in the whole run
    step_in_epoch: int  # the same, in this epoch
    num_epochs: int
    steps_per_epoch: int
