"""How a benchmark states a figure that has a limit, for a reader and for `benchmarks.report`."""

import json
import os
from typing import Any

FILE = "ENCORE_BENCHMARK_FIGURES"  # the environment's name of the file that figures are added to, if there is one


def figure(
    what: str, value: float, unit: str, *, peer: str = "", least: float | None = None, most: float | None = None
) -> None:
    """Prints a figure beside its limit.

    Args:
        what: is measured, such as "NMS, all scores above the threshold".
        unit: "times" of a ratio to `peer`, which was measured in the same run, or what the value is in.
        least, most: its limit, if it has one.
    """
    limit = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
    is_kept = (least is None or value >= least) and (most is None or value <= most)
    row: dict[str, Any] = {"what": what, "value": value, "unit": unit, "peer": peer, "limit": limit, "is_kept": is_kept}
    print("  " + in_words(row))
    if FILE in os.environ:
        with open(os.environ[FILE], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def in_words(row: dict[str, Any]) -> str:
    against = f" of {row['peer']}" if row["peer"] else ""
    limit = f" (wanted: {row['limit']}{'' if row['is_kept'] else ', missed'})" if row["limit"] else ""
    return f"{row['what']}: {row['value']:.3g} {row['unit']}{against}{limit}"
