"""docs/backbones.md: what it says is counted again, and compared with what others have published."""

import pytest

from public.files import REPOSITORY
from public.models import create_model
from public.models.backbones import NETWORKS, published_classes
from public.test_scripts import table_of_networks
from public.test_scripts.table_of_networks import markdown, published, row

TABLE = REPOSITORY / "docs/backbones.md"


@pytest.fixture(scope="module")
def cells() -> dict[str, list[str]]:
    """name -> the further cells of its line."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in rows}


@pytest.mark.slow
def test_the_file_is_what_the_command_writes(cells, monkeypatch):
    """And what it says of classes and parameters is true of the networks that it counted."""
    counted = []

    def create_and_keep(name):
        counted.append(create_model(name))
        return counted[-1]

    monkeypatch.setattr(table_of_networks, "create_model", create_and_keep)
    assert markdown([row(name) for name in NETWORKS]) == TABLE.read_text()
    assert list(cells) == list(NETWORKS)
    for (name, (classes, _, parameters, *_)), model in zip(cells.items(), counted, strict=True):
        assert int(classes) == published_classes(name) == model.num_classes
        assert parameters == f"{sum(value.numel() for value in model.parameters()) / 1e6:.6f}", name


def test_they_agree_with_what_is_published(cells):
    """Within half of the last printed digit; the MACs within one of it, since printed figures may be cut off."""
    compared = {"parameters": 0, "macs": 0}
    for name, (_, _, parameters, known, macs, known_macs, source) in cells.items():
        assert (known == "-") == (source == "measured"), name
        if known != "-":
            unit = 10 ** -len(known.partition(".")[2])
            assert abs(float(parameters) - float(known)) <= 0.5 * unit + 1e-9, name
            compared["parameters"] += 1
        if known_macs != "-":
            assert abs(float(macs) - float(known_macs)) <= 0.001 + 1e-9, name
            compared["macs"] += 1
    assert compared["parameters"] >= 40
    assert compared["macs"] >= 15


def test_published_names_exist():
    tables = (table_of_networks.TORCHVISION, table_of_networks.TIMM, table_of_networks.PADDLECLAS)
    names = [name for table in tables for name in table]
    assert set(names) <= NETWORKS.keys()
    assert len(names) == len(set(names))
    assert published("resnet18")[0] == "11.689512"
    assert published("resnet34_half") == (None, None, "measured")


def test_command(tmp_path, capsys, monkeypatch):
    arguments = ["resnet18_cifar", "--output", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", ["table_of_networks", *arguments])
    table_of_networks.main()
    assert str(tmp_path / "table.md") in capsys.readouterr().out
    # parameters and GMACs as the recipes measured them on the network that this one follows
    expected = "| resnet18_cifar | 100 | 32 | 11.220132 | - | 0.555 | - | measured |"
    assert (tmp_path / "table.md").read_text().splitlines()[-1] == expected
    monkeypatch.setattr("sys.argv", ["table_of_networks", "resnet19"])
    with pytest.raises(SystemExit, match="no backbone is called 'resnet19'"):
        table_of_networks.main()
