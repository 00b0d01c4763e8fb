"""Learning-rate schedules as settings: pure functions of the step, so that a resumed run needs no schedule state."""

import math
from dataclasses import dataclass
from typing import Annotated

from public.settings import GoesWithEpochs, NonNegative, Positive, Probability, Rising, check


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up, then a half cosine over a horizon of its own.

    Step i of the warm-up (from 0) has the factor start + (1 - start) * i / warm-up.  After it, the cosine runs from the
    end of the warm-up to `horizon_epochs`; where that lies beyond the last epoch (PPYOLOE: 360 of 300 epochs), the run
    ends at a learning rate above the lowest.  After PaddleDetection's CosineDecay with LinearWarmup.
    """

    warmup_epochs: NonNegative
    warmup_start: NonNegative  # factor of the learning rate at step 0
    horizon_epochs: Annotated[Positive, GoesWithEpochs()]
    min_factor: Probability  # lowest factor of the cosine

    def __post_init__(self) -> None:
        check(self)

    def factor(self, step: int, steps_per_epoch: int) -> float:
        warmup, horizon = self.warmup_epochs * steps_per_epoch, self.horizon_epochs * steps_per_epoch
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * step / warmup
        progress = min((step - warmup) / max(horizon - warmup, 1), 1.0)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class QuadraticWarmupCosine(WarmupCosine):
    """WarmupCosine whose warm-up rises with the square of the step: start + (1 - start) * (i / warm-up) ** 2.

    YOLOX's schedule: 5 epochs of warm-up from 0, a cosine down to 0.05 that ends at `horizon_epochs`, 285 of 300, and 0.05
    for the rest.  After `yolox_warm_cos_lr` of Megvii's code, whose step i is ours.
    """

    def factor(self, step: int, steps_per_epoch: int) -> float:
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * (step / warmup) ** 2
        return super().factor(step, steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class WarmupMultiStep:
    """Linear warm-up as in WarmupCosine, then the factor `gamma` for each milestone (in epochs) that is reached."""

    warmup_epochs: NonNegative
    warmup_start: NonNegative
    milestones: Annotated[tuple[Positive, ...], Rising(), GoesWithEpochs()]
    gamma: Positive

    def __post_init__(self) -> None:
        check(self)

    def factor(self, step: int, steps_per_epoch: int) -> float:
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * step / warmup
        return self.gamma ** sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
