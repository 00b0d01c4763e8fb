"""What a page reaches with several seeds: mean, standard deviation, and the smallest difference that this can tell apart.

`seeds.json` in the experiment's folder keeps it, one entry for each set of flags that the trainings had.

Source: Student, The Probable Error of a Mean, Biometrika 6 (1908); for two unequal deviations Welch, The Generalization of
'Student's' Problem, Biometrika 34 (1947).
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from public.files import read_json_object, write_text
from public.text import brief

FILE = "seeds.json"
CONFIDENCE = 0.95  # two-sided: so rarely do equal pages seem to differ


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The best values of runs that differ in the seed alone.

    metric: the one that chooses the best weights.  runs: names of their folders, in the order of `values`.
    """

    metric: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Of the sample: divided by n - 1."""
        return statistics.stdev(self.values)

    @property
    def smallest_difference(self) -> float:
        """The smallest distance from the mean of as many seeds of a page that spreads as much, that is no chance."""
        return least_difference(self, self)

    def __str__(self) -> str:
        return f"{self.mean:.4f} +- {self.std:.4f} ({len(self.values)})"


def least_difference(one: Spread, other: Spread) -> float:
    """The smallest difference of the two means that is no chance, at CONFIDENCE: Welch's test."""
    parts = [(spread.std**2 / len(spread.values), len(spread.values) - 1) for spread in (one, other)]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / count for variance, count in parts)
    return t_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(total)


class Paired(NamedTuple):
    """The differences of two pages seed by seed: `mean` +- `margin` at CONFIDENCE; `higher` of `pairs` are positive."""

    mean: float
    margin: float
    higher: int
    pairs: int

    def __str__(self) -> str:
        told = "no chance" if abs(self.mean) > self.margin else "may be chance"
        return f"seed by seed {self.mean:+.4f} +- {self.margin:.4f}, {self.higher} of {self.pairs} higher: {told}"


def paired(one: Spread, other: Spread) -> Paired | None:
    """What `other` gains over `one` with the same seed, by Student's test of pairs; None: they share fewer than two.

    Runs of one seed start from the same values and see the same pictures as far as the pages agree, so that what one seed is
    better than another by drops out.
    """
    values = dict(zip(one.seeds, one.values))
    gains = [value - values[seed] for seed, value in zip(other.seeds, other.values) if seed in values]
    if len(gains) < 2:
        return None
    margin = t_quantile((1 + CONFIDENCE) / 2, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return Paired(statistics.fmean(gains), margin, sum(gain > 0 for gain in gains), len(gains))


def verdict(one: Spread, other: Spread) -> str:
    """Whether two pages differ by more than the seeds do, in words: their means, and what is left seed by seed."""
    difference, least = other.mean - one.mean, least_difference(one, other)
    told = "more than the seeds' spread" if abs(difference) > least else "within the seeds' spread"
    pairs = paired(one, other)
    return f"{one.metric} {one} and {other}: {difference:+.4f}, {told} ({least:.4f})" + (f"; {pairs}" if pairs else "")


def t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with `freedom` degrees stays below with this probability, in [0.5, 1); to 9 digits.

    By halving an interval; the distribution is integrated by Simpson's rule over an angle, which makes the interval finite.
    """

    def below(t: float) -> float:
        # with t = sqrt(freedom) tan(u) the density is proportional to cos(u) ** (freedom - 1)
        steps, end = 2000, math.atan(t / math.sqrt(freedom))
        heights = [math.cos(end * i / steps) ** (freedom - 1) for i in range(steps + 1)]
        area = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
        return 0.5 + scale * area * end / steps / 3

    low, high = 0.0, 1.0
    while below(high) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < probability else (low, middle)
    return high


# ---------------------------------------------------------------------------------------------- the file


def write_spread(folder: Path, flags: Sequence[str], spread: Spread, **more: Any) -> Path:
    """Keeps `spread` in the experiment's folder, in place of what an earlier call with the same flags left."""
    path = folder / FILE
    known = read_json_object(path) if path.is_file() else {}
    known[" ".join(flags)] = {
        "metric": spread.metric,
        "mean": spread.mean,
        "std": spread.std,
        "smallest_difference": spread.smallest_difference,
        "confidence": CONFIDENCE,
        "seeds": list(spread.seeds),
        "runs": list(spread.runs),
        "values": list(spread.values),
        **more,
    }
    write_text(path, json.dumps(known, indent=2) + "\n")
    return path


def read_spreads(folder: Path) -> dict[str, Spread]:
    """What seeds.json of an experiment's folder holds, by the flags; nothing where there is none.

    Raises:
        ValueError: it is damaged, naming it.
    """
    path = folder / FILE
    return {flags: _spread(path, entry) for flags, entry in (read_json_object(path) if path.is_file() else {}).items()}


def _spread(path: Path, entry: Any) -> Spread:
    try:
        fields = {name: tuple(entry[name]) for name in ("seeds", "runs", "values")}
        spread = Spread(metric=entry["metric"], **fields)
        if len({len(values) for values in fields.values()}) > 1 or len(spread.values) < 2:
            raise ValueError("its lists are of different lengths, or of fewer than two runs")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in spread.values):
            raise ValueError(f"its values are {brief(entry['values'])}")
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    return spread
