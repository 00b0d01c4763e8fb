"""A table of short texts and numbers, for the terminal, for a README and for a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from public.text import shown

STYLES = ("text", "markdown", "csv")

Cell = str | int | float | None


def format_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], style: str = "text", digits: int = 3) -> str:
    """`rows` under `header`, without a newline at the end.

    "text" and "markdown" round floats to `digits` places, write "-" for None, and align numbers to the right; "csv"
    (RFC 4180) writes every digit, and nothing for None.

    Raises:
        ValueError: an unknown style, or a row that is not as long as the header.
    """
    if style not in STYLES:
        raise ValueError(f"the style of the table is {style!r}; there are {', '.join(STYLES)}")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"the table has {len(header)} columns, and a row of {len(row)} cells: {list(row)}")
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().removesuffix("\n")

    cells = [[_shown(cell, digits) for cell in row] for row in rows]
    if style == "markdown":
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    is_number = [not any(isinstance(row[c], str) for row in rows) for c in range(len(header))]
    widths = [max(len(line[c]) for line in [header, *cells]) for c in range(len(header))]
    lines = [
        [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, is_number)]
        for line in [header, *cells]
    ]
    if style == "text":
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_number)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else shown(str(cell))
