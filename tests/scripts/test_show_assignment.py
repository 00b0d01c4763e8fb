"""The pages of assignments: counts in closed form, points where and in the colour they should be, the command."""

import sys

import cv2
import numpy as np
import pytest
import torch

from public import drawing
from public.datasets.shapes import draw_shapes
from public.input import normalise
from public.losses.assigners.assignment import BACKGROUND, IGNORED, Matches
from public.reports.assignments import count_points, draw_assignment, format_counts, spacings
from public.runs.experiment import load_experiment
from public.test_scripts import show_assignment
from public.training.run import build_state
from tests.helpers.places import REPOSITORY

PAGES = REPOSITORY / "detection_experiments"


def grid(side: int, step: int, num_in_cell: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * step).repeat_interleave(num_in_cell, 0)


def two_levels(num_in_cell: int = 1) -> Matches:
    """Of 64 pixels: 4 x 4 cells and 2 x 2.  Object 0 at two cells of the first level and one of the second, 1 at one.

    Of several anchors in a cell it is the second that learns.
    """
    points = torch.cat([grid(4, 16, num_in_cell), grid(2, 32, num_in_cell)])
    objects = torch.full((2, len(points)), BACKGROUND)
    for place, what in ((0, 0), (5, 0), (10, 1), (15, IGNORED), (16, 0), (18, IGNORED)):
        objects[1, place * num_in_cell + (num_in_cell > 1)] = what
    return Matches(objects, points, ((4, 4), (2, 2)))


BOXES = np.array([[2, 2, 34, 36], [32, 30, 60, 50.0]])
LABELS, NAMES = np.array([1, 0]), ("cat", "dog")


def test_counts_and_table():
    matches = two_levels()
    counts = count_points(matches, 1, 2)
    assert counts.tolist() == [[2, 1], [1, 0], [1, 1], [12, 2]]
    assert count_points(matches, 0, 0).tolist() == [[0, 0], [16, 4]]
    assert spacings(matches, (64, 64)) == [16, 32]
    assert spacings(two_levels(9), (64, 64)) == [16, 32]
    assert spacings(matches._replace(points=matches.points[:1], level_sizes=((1, 1),)), (64, 48)) == [48]
    lines = format_counts(counts, BOXES, LABELS, NAMES, [16, 32]).splitlines()
    assert [name.strip() for name in lines[0].split("  ")][-3:] == ["every 16 px", "every 32 px", "all"]
    assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    assert ["dog" in lines[1], "cat" in lines[2], "32 x 34" in lines[1]] == [True] * 3
    assert [[int(word) for word in line.split()[-3:]] for line in lines[1:]] == [
        [2, 1, 3], [1, 0, 1], [1, 1, 2], [12, 2, 14], [16, 4, 20],
    ]  # fmt: skip


@pytest.mark.parametrize("num_in_cell", [1, 4])
def test_points_are_drawn_where_they_lie_in_the_colour_of_their_object(num_in_cell):
    """64 pixels become 256: points lie 64 and 128 apart; of four anchors the second is drawn a quarter cell up and right."""
    picture = np.full((64, 64, 3), 200, dtype=np.uint8)
    matches = two_levels(num_in_cell)
    row = draw_assignment(picture, BOXES, LABELS, NAMES, matches, 1, side=256, title="a picture")
    strip = row.shape[0] - 256
    panels = [row[strip:, -520:-264], row[strip:, -256:]]
    colors = drawing.class_colors(2)
    shift = (0, 0) if num_in_cell == 1 else (-0.25, 0.25)
    for place, what in (
        (0, 0),
        (5, 0),
        (10, 1),
        (16, 0),
        (15, IGNORED),
        (18, IGNORED),
        (3, BACKGROUND),
        (19, BACKGROUND),
    ):
        level, number, side = (0, place, 4) if place < 16 else (1, place - 16, 2)
        x, y = ((np.array([number % side, number // side]) + 0.5 - np.array(shift)) * 256 / side).astype(int)
        around = panels[level][y - 8 : y + 8, x - 8 : x + 8].reshape(-1, 3)
        if what >= 0:
            assert (panels[level][y, x] == colors[what]).all()
        else:
            assert (around.min(1) > 240).any() == (what == IGNORED), "a white ring"
            assert not any((around == color).all(1).sum() > 20 for color in colors)
    dimmed = panels[0][250, 250]
    assert (dimmed == 80).all(), "0.4 of 200"
    assert (row[strip:, :256][250, 250] == 200).all(), "the picture itself is not dimmed"
    legend = row[strip:, 264:-528]
    for number, color in enumerate(colors):
        assert (legend[17 * number + 8, 6] == color).all()


def test_more_objects_than_the_legend_has_room_for_are_counted(monkeypatch):
    said = []
    monkeypatch.setattr("public.reports.assignments.write", lambda image, text, *rest, **options: said.append(text))
    matches = two_levels()
    boxes = np.tile(BOXES[:1], (20, 1))
    draw_assignment(np.zeros((64, 64, 3), np.uint8), boxes, np.zeros(20, int), NAMES, matches, 1, side=170, title="")
    assert said[:2] == ["0 cat: 3 = 2 + 1", "1 cat: 1 = 1 + 0"]
    assert said[9:] == ["and 11 more objects"]
    said.clear()
    draw_assignment(np.zeros((64, 64, 3), np.uint8), boxes[:0], np.zeros(0, int), NAMES, matches, 0, side=170, title="")
    assert said == ["no object: every point learns background"]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Twenty and four drawn shapes."""
    root = tmp_path_factory.mktemp("assignments")
    draw_shapes(str(root / "shapes"), num_train=20, num_val=4, size=128, seed=0)
    return root


@pytest.fixture
def command(data_root, tmp_path, monkeypatch):
    """Types the command in an empty folder; what it shows."""
    monkeypatch.chdir(tmp_path)

    def run(page, *arguments):
        words = ["show_assignment", PAGES / page, *arguments, "--data_root", data_root, "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        show_assignment.main()
        return run.shown

    def show(arguments):
        run.shown = original(arguments)

    original = show_assignment.show
    monkeypatch.setattr(show_assignment, "show", show)
    return run


def test_the_counts_are_the_positives_of_the_loss(command, data_root, tmp_path, capsys):
    """PPYOLOE in its two phases, against network and loss put together here; the page and its tables."""
    shown = command("ppyoloe_xs_shapes", "--split", "val", "--images", "2", "--side", "100")
    said = capsys.readouterr().out
    assert "epoch 0, untrained: ATSSAssigner" in said
    again = command("ppyoloe_xs_shapes", "--split", "val", "--index", "1", "--epoch", "3", "--output", "late.jpg")
    assert "epoch 3, untrained: TaskAlignedAssigner" in capsys.readouterr().out
    (page, late) = sorted(tmp_path.iterdir(), reverse=True)
    assert (page.name, late.name) == ("ppyoloe_xs_shapes_assignment.png", "late.jpg")
    height, width = cv2.imread(str(page)).shape[:2]
    assert 4 * 100 < width < 5 * 100 + 50
    assert 2 * 100 < height < 2 * 100 + 120

    config = load_experiment(PAGES / "ppyoloe_xs_shapes").config
    model = build_state(config, torch.device("cpu"))[0].model.eval()
    loss = config.detector.build_loss()
    for item, epoch in ((shown[1], 0), (again[0], 8)):
        sample = item.sample
        assert sample.image_id == shown[1].sample.image_id, "the picture alone and beside another"
        target = {"boxes": torch.from_numpy(sample.boxes), "labels": torch.from_numpy(sample.labels)}
        with torch.no_grad():
            outputs = model(normalise(torch.from_numpy(sample.image)[None], config.input))
        progress = show_assignment.Progress(epoch, 0, 0, 9, 1)
        labels = loss.assign(outputs, [target], progress).labels[0]
        assert item.counts[:-2].sum() == (labels != 6).sum() > 0
        assert torch.equal(item.matches.objects[0] >= 0, labels != 6)
        for label in range(6):
            assert item.counts[:-2][sample.labels == label].sum() == (labels == label).sum()
        assert item.counts.sum() == len(labels)
        for row in item.counts:
            assert f"{row.sum()}\n" in said or epoch


def test_training_samples_of_a_loss_that_ignores_anchors(command, capsys):
    shown = command("retinanet_shapes", "--images", "3", "--untrained")
    assert len(shown) == 3
    for item in shown:
        assert item.counts[-2].sum() > 0, "ignored anchors"
        assert item.counts.sum(0).tolist() == [9 * side * side for side in (12, 6, 3)]  # at 96 px, as the page begins
    assert capsys.readouterr().out.count("all points") == 3


def test_trained_weights_are_asked_in_the_last_epoch(command, tmp_path, capsys):
    config = load_experiment(PAGES / "yolox_nano_shapes").config
    torch.manual_seed(3)
    names = ("circle", "cross", "ring", "square", "star", "triangle")
    model = config.detector.build_model()
    state = {"model": model.state_dict(), "num_classes": 6, "class_names": names}
    torch.save(state, tmp_path / "some.pth")
    (item,) = command("yolox_nano_shapes", str(tmp_path / "some.pth"), "--images", "1", "--split", "val")
    assert f"epoch {config.epochs - 1}, some.pth: SimOTAAssigner" in capsys.readouterr().out
    with torch.no_grad():
        outputs = model.eval()(normalise(torch.from_numpy(item.sample.image)[None], config.input))
    target = {"boxes": torch.from_numpy(item.sample.boxes), "labels": torch.from_numpy(item.sample.labels)}
    expected = config.detector.build_loss().matches(outputs, [target], show_assignment.Progress(299, 0, 0, 300, 1))
    assert torch.equal(item.matches.objects, expected.objects)
    assert (expected.objects >= 0).any()


@pytest.mark.parametrize(
    ("page", "arguments", "message"),
    [
        ("ppyoloe_xs_shapes", ("--images", "0"), "--images is 0"),
        ("ppyoloe_xs_shapes", ("some.pth", "--untrained"), "do not go together"),
        ("ppyoloe_xs_shapes", ("none.pth",), "there are no weights .*none.pth"),
        ("ppyoloe_xs_shapes", ("--epoch", "99"), r"--epoch 99: the training has epochs 0 to \d+"),
        ("ppyoloe_xs_shapes", ("--index", "99"), "images 0 to 19"),
        ("../cifar100_experiments/resnet18_mini", (), "classifies images"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(command, page, arguments, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        command(page, *arguments)


def test_a_loss_of_an_experiments_own_is_named(command, monkeypatch):
    class Own:
        def __init__(self, **settings):
            pass

    monkeypatch.setattr("public.families.ppyoloe.PPYOLOELoss", Own)
    with pytest.raises(SystemExit, match=r"Own of .* does not say what its points learn: it has no matches\(\)"):
        command("ppyoloe_xs_shapes")
