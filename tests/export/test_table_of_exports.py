"""The table of the formats: a figure for what can be written, a reason for what cannot.

`pytest tests/export/test_table_of_exports.py --whole-table` writes and compares all of it, which takes a quarter of an hour.
"""

import dataclasses
import re

import pytest
import torch

from public.export.card import make_card
from public.export.graph import ExportGraph
from public.export.parity import measure
from public.export.runners.network import ExportedNetwork
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
    """What `docs/export.md` says is what the command would write today, but for the figures."""
    rows = rows_of(read("docs/export.md").split(table_of_exports.BEGIN)[1].split(table_of_exports.END)[0])
    assert rows[0] == ["network", "outputs", *table_of_exports.COLUMNS]
    known = [*table_of_exports.PAGES, *table_of_exports.CLASSIFIERS]
    assert list(dict.fromkeys(row[0] for row in rows[2:])) == known
    assert not [cell for row in rows[2:] for cell in row if "over its bound" in cell]


def rows_of(text: str) -> list[list[str]]:
    """The cells of a table in Markdown."""
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("name", [*table_of_exports.PAGES, *table_of_exports.CLASSIFIERS])
def test_a_row_is_what_the_page_says(name, request):
    """A reason in the same cells, and elsewhere figures within their bounds."""
    if not request.config.getoption("--whole-table"):
        pytest.skip("takes a minute a row: --whole-table")
    found = rows_of(table_of_exports.write_table(make_parsed(table_of_exports, [name])))[2:]
    said = [row for row in rows_of(read("docs/export.md")) if row[0] == name]
    assert [[cell[:2] == "no" for cell in row] for row in found] == [[cell[:2] == "no" for cell in row] for row in said]
    assert not [cell for row in found for cell in row if "over its bound" in cell]


@pytest.mark.parametrize("name", table_of_exports.CLASSIFIERS)
def test_every_classifier_gives_what_its_network_gives(name):
    """The graph that is written, computed by torch; of one also that channels in another order are found."""
    ((*_, model, _),) = table_of_exports._rows([name], ["raw"])
    pictures, spec = table_of_exports._pictures()[:1], table_of_exports.CROP
    for is_broken in (False, True) if name == "lcnet_035" else (False,):
        inside = dataclasses.replace(spec, color_order="bgr" if is_broken else "rgb")
        graph = ExportGraph(
            model=model, decoder=None, spec=inside, input_form="image", outputs="raw", size=spec.size
        ).eval()
        card = make_card(graph, format="torch", precision="float32", class_names=("a",), batch=None, source={})

        def session(inputs, graph=graph):
            with torch.no_grad():
                return [value.numpy() for value in graph(*map(torch.from_numpy, inputs))]

        network = ExportedNetwork(session, card, "graph")
        found = measure(network, None, model=model, decoder=None, spec=spec, pictures=pictures)
        assert found.is_lively
        assert bool(found.failures) == is_broken
