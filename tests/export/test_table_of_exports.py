"""The table of the formats: a figure for what can be written, a reason for what cannot."""

import re

import pytest

from public.test_scripts import table_of_exports
from tests.export.test_command import make_parsed
from tests.helpers.documents import read


def test_the_command(tmp_path):
    """It takes the place of the table in the page, and nothing else of it."""
    page = tmp_path / "export.md"
    page.write_text(f"before\n{table_of_exports.BEGIN}\nold\n{table_of_exports.END}\nafter\n")
    words = ["lcnet_035", "--format", "torch", "--outputs", "boxes", "--output", str(page)]
    table_of_exports.write_table(make_parsed(table_of_exports, words))
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    rows = [line for line in lines if line.startswith("| lcnet_035")]
    (figure,) = re.fullmatch(r"\| lcnet_035 \| raw \| ([\de.-]+) \|", rows[0]).groups()
    (row,) = [line for line in read("docs/export.md").splitlines() if line.startswith("| lcnet_035")]
    said = dict(zip(table_of_exports.COLUMNS, row.strip("| ").split(" | ")[2:]))
    assert float(figure) < 10 * float(said["torch"]), "roundings differ from CPU to CPU, not their order"


def test_reasons_stand_below(capsys):
    text = table_of_exports.write_table(
        make_parsed(table_of_exports, ["CenterNet", "--format", "ncnn", "--outputs", "detections"])
    )
    assert "| CenterNet | detections | no (1) |" in text
    assert "1. --format ncnn cannot give detections" in text


def test_what_is_unknown_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no row resnet1812; there are RetinaNet, FCOS"):
        table_of_exports.write_table(make_parsed(table_of_exports, ["resnet1812"]))


def test_the_page_has_every_family_and_format():
    """What `docs/export.md` says is what the command would write today, but for the figures; of classifiers some."""
    text = read("docs/export.md").split(table_of_exports.BEGIN)[1].split(table_of_exports.END)[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert rows[0] == ["network", "outputs", *table_of_exports.COLUMNS]
    names = [row[0] for row in rows[2:]]
    known = [*table_of_exports.PAGES, *table_of_exports.CLASSIFIERS]
    assert list(dict.fromkeys(names)) == [name for name in known if name in names]
    assert set(table_of_exports.PAGES) < set(names)
    assert not [cell for row in rows[2:] for cell in row if "over its bound" in cell]
