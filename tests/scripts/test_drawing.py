"""Pictures: where boxes and labels lie, their colours, sizes from 64 to 6,000 pixels, sheets, and saving."""

import os

import cv2
import numpy as np
import pytest

from public import drawing
from public.drawing import class_colors, contact_sheet, draw_detections, save_image, side_by_side, text_color

NAMES = ("cat", "dog", "hippopotamus")


def grey(height, width, value=128):
    return np.full((height, width, 3), value, dtype=np.uint8)


def colored(image, color):
    """bool (H, W): the pixels of exactly this colour."""
    return (image == np.asarray(color)).all(axis=-1)


@pytest.fixture
def chips(monkeypatch):
    """The labels that are drawn, in the order of drawing."""
    drawn = []
    draw = drawing._draw_chip

    def record(image, chip, style):
        drawn.append(chip)
        draw(image, chip, style)

    monkeypatch.setattr(drawing, "_draw_chip", record)
    return drawn


# Boxes


def test_lines_lie_on_the_edges_of_the_box():
    """An image of 200 pixels has lines of two pixels at most, centred on the box's first and last pixels."""
    image = draw_detections(grey(200, 200), [[50, 80, 150, 160]], [1], NAMES)
    is_line = colored(image, class_colors(3)[1])
    for row, column in ((80, 140), (159, 100), (120, 50), (120, 149)):  # the middle of each side
        assert is_line[row, column]
    assert not is_line[84:156, 54:146].any()  # the inside stays open
    assert not is_line[163:].any()
    assert not is_line[:, 153:].any()
    assert not is_line[:, :47].any()


def test_the_argument_stays_as_it_is_and_no_box_means_no_change():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    before = image.copy()
    draw_detections(image, [[5, 5, 50, 50]], [0], NAMES, [0.5], min_side=100)
    assert (image == before).all()
    unchanged = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), NAMES, np.zeros(0))
    assert (unchanged == before).all()
    assert not np.shares_memory(unchanged, image)


@pytest.mark.parametrize("scores", [[0.4, 0.9], [0.9, 0.4]])
def test_the_higher_score_lies_on_top(scores):
    image = draw_detections(grey(200, 200), [[50, 50, 150, 150]] * 2, [0, 1], NAMES, scores)
    assert colored(image, class_colors(3)[int(np.argmax(scores))])[149, 60]


def test_without_scores_the_smaller_box_lies_on_top():
    image = draw_detections(grey(300, 300), [[50, 50, 150, 250], [50, 50, 150, 150]], [0, 1], NAMES)
    is_small = colored(image, class_colors(3)[1])
    assert is_small[120, 50]  # where both have their left side
    assert colored(image, class_colors(3)[0])[220, 50]


@pytest.mark.parametrize("side", [64, 320, 640, 2000, 6000])
def test_lines_and_letters_grow_with_the_image(side, chips):
    image = draw_detections(grey(side, side), [[side * 0.3, side * 0.5, side * 0.9, side * 0.9]], [0], NAMES, [0.5])
    row = colored(image, class_colors(3)[0])[int(side * 0.8), : side // 2]
    x1, y1, x2, y2 = chips[0].box
    assert max(1, side / 500) <= row.sum() <= max(2, side / 100)
    assert max(10, side * 0.02) <= y2 - y1 <= max(14, side * 0.06)
    assert chips[0].text == "cat 0.50"
    assert x2 - x1 > 3 * (y2 - y1) / 2  # a word is wider than high


def test_small_images_are_enlarged_when_asked():
    image = draw_detections(grey(50, 100), [[20, 10, 60, 40]], [0], NAMES, min_side=200)
    assert image.shape == (200, 400, 3)
    is_line = colored(image, class_colors(3)[0])
    assert is_line[120, 80]
    assert is_line[120, 239]
    assert is_line[159, 200]
    assert draw_detections(grey(50, 100), [[20, 10, 60, 40]], [0], NAMES, min_side=50).shape == (50, 100, 3)


@pytest.mark.parametrize(
    ("shape", "expected"), [((20, 6000), (20, 6000)), ((20, 400), (40, 800)), ((1, 1), (200, 200))]
)
def test_a_long_strip_is_not_enlarged_beyond_measure(shape, expected):
    image = draw_detections(grey(*shape), [[0, 0, 1, 1]], [0], NAMES, min_side=200)
    assert image.shape[:2] == expected


# Labels


@pytest.mark.parametrize(
    ("height", "width", "has_room"), [(8, 8, False), (16, 64, False), (64, 20, True), (300, 400, True)]
)
def test_labels_stay_inside_the_image(height, width, has_room, chips):
    """Pictures of which one label would hide more than a third have none."""
    rng = np.random.default_rng(height)
    centres = rng.uniform(-0.3, 1.3, (40, 2)) * (width, height)
    sizes = rng.uniform(0, 0.8, (40, 2)) * (width, height)
    boxes = np.concatenate([centres - sizes, centres + sizes], axis=1)
    draw_detections(grey(height, width), boxes, rng.integers(0, 3, 40), NAMES, rng.random(40))
    corners = np.array([chip.box for chip in chips]).reshape(-1, 4)
    assert (len(corners) > 0) == has_room
    assert np.prod(corners[:, 2:] - corners[:, :2], axis=1).sum() <= height * width / 3
    assert (corners >= 0).all()
    assert (corners <= [width, height, width, height]).all()


def test_a_name_that_is_too_long_ends_in_two_points(chips):
    draw_detections(grey(64, 64), [[5, 20, 60, 60]], [0], ["the name of a class that goes on"], [0.5])
    assert chips[0].text.startswith("the n")
    assert chips[0].text.endswith("..")


def shared_pixels(chips):
    boxes = [chip.box for chip in chips]
    overlaps = [drawing._overlap(box, np.array(boxes[i + 1 :]).reshape(-1, 4)).sum() for i, box in enumerate(boxes)]
    return sum(overlaps)


def test_labels_of_boxes_on_one_spot_keep_clear_of_each_other(chips):
    draw_detections(grey(480, 640), [[250, 200, 390, 300]] * 6, [0, 1, 2, 0, 1, 2], NAMES, np.linspace(0.9, 0.4, 6))
    assert shared_pixels(chips) == 0
    assert [chip.text for chip in chips][-1] == "cat 0.90"  # the best is drawn last, so nothing hides it


def test_labels_shrink_where_there_are_many(chips):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (80, 2))
    boxes = np.concatenate([corners, corners + 60], axis=1)
    draw_detections(grey(480, 640), boxes[:1], [0], NAMES, [0.5])
    draw_detections(grey(480, 640), boxes, rng.integers(0, 3, 80), NAMES, rng.random(80))
    heights = [chip.box[3] - chip.box[1] for chip in chips]
    assert heights[0] > max(heights[1:])


def test_every_box_is_drawn_and_the_best_are_labelled(chips):
    """On 96 x 96 pixels a third is room for three labels of some 70 x 11; the boxes of all ten are there."""
    x, y = np.meshgrid([4, 24, 44, 64, 84], [20, 60])
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    scores = np.random.default_rng(0).permutation(10) / 10
    image = draw_detections(grey(96, 96), np.concatenate([corners, corners + 8], axis=1), [1] * 10, NAMES, scores)
    kept = [chip.text for chip in chips]
    assert 1 <= len(kept) < 10
    assert kept == [f"dog {score:.2f}" for score in sorted(scores)[-len(kept) :]]
    covered = np.zeros((96, 96), dtype=bool)
    for chip in chips:
        covered[chip.box[1] : chip.box[3], chip.box[0] : chip.box[2]] = True
    assert covered.sum() <= 96 * 96 / 3
    is_line = colored(image, class_colors(3)[1])
    for left, top in corners.tolist():
        assert (is_line | covered)[top, left : left + 8].all()


# Colours


def contrast(color, other):
    """WCAG 2's contrast ratio, from its text."""

    def luminance(rgb):
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in map(float, rgb)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted([luminance(color), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_class_keeps_its_colour_and_text_is_readable_on_it():
    colors = class_colors(300)
    assert (class_colors(20) == colors[:20]).all()
    assert len(np.unique(colors, axis=0)) == 300
    assert all(contrast(color, text_color(color)) > 4.5 for color in colors)
    assert class_colors(5000).shape == (5000, 3)


def test_the_first_twenty_colours_are_far_apart():
    """In CIELAB, another measure than the one they are chosen by: 2.3 is just noticeable, 15 is plain."""
    lab = cv2.cvtColor(class_colors(20)[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(20)
    assert distance.min() > 15


# Several images in one


def test_side_by_side_keeps_both_pictures_whole():
    left, right = grey(120, 200, 40), grey(60, 50, 90)
    image = side_by_side(left, right, ("ground truth", "predictions of a long name that does not fit"))
    title_height = image.shape[0] - 120
    assert title_height > 0
    assert image.shape[1] > 200 + 100  # the right one is doubled to the height of the left
    assert (image[title_height:, :200] == 40).all()
    assert (image[title_height:, -100:] == 90).all()
    assert (image[:title_height, :200] < 100).any()  # letters
    assert (image[:title_height, 200:] < 100).any()


def test_contact_sheet_puts_each_image_into_its_cell():
    images = [grey(40, 60, value) for value in (10, 20, 30, 40)] + [grey(20, 30, 50)]
    sheet = contact_sheet(images, 3)
    counts = {value: int((sheet == value).all(axis=-1).sum()) for value in (10, 20, 30, 40, 50)}
    assert counts == dict.fromkeys(counts, 40 * 60)  # the small one has been enlarged to its cell
    rows, columns = zip(*[np.argwhere((sheet == value).all(axis=-1)).mean(axis=0) for value in (10, 20, 30, 40, 50)])
    assert rows[0] == rows[1] == rows[2] < rows[3] == rows[4]
    assert columns[0] == columns[3] < columns[1] == columns[4] < columns[2]
    assert contact_sheet(images[:1], 4).shape[1] < 2 * 60  # no empty columns


# Saving


def test_a_saved_png_is_the_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save_image(tmp_path / "picture.png", image)
    assert (cv2.imread(str(tmp_path / "picture.png"))[..., ::-1] == image).all()
    save_image(tmp_path / "bild ü.jpg", image)  # by bytes, so that any name works on any system
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bild ü.jpg", "picture.png"]


def test_a_full_disk_leaves_the_old_picture_whole(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"picture\.png could not be written.*No space left"):
        save_image(path, grey(4, 4))
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_and_an_unknown_ending_are_named(tmp_path):
    with pytest.raises(OSError, match=r"nowhere.picture\.png could not be written"):
        save_image(tmp_path / "nowhere" / "picture.png", grey(4, 4))
    for name in ("picture.xyz", "picture"):
        with pytest.raises(ValueError, match=f"{name}: OpenCV knows no image format"):
            save_image(tmp_path / name, grey(4, 4))


# Refusals


NOT_IMAGES = {
    "float": np.zeros((4, 4, 3)),
    "grey": np.zeros((4, 4), np.uint8),
    "with alpha": np.zeros((4, 4, 4), np.uint8),
    "list": [[1]],
    "empty": np.zeros((0, 4, 3), np.uint8),
}


@pytest.mark.parametrize("image", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_something_else_than_an_image_is_refused(image, tmp_path):
    for function in (
        lambda: draw_detections(image, [], [], NAMES),
        lambda: save_image(tmp_path / "picture.png", image),
        lambda: side_by_side(image, grey(4, 4), ("a", "b")),
        lambda: contact_sheet([image], 1),
    ):
        with pytest.raises(ValueError, match="image"):
            function()


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "message"),
    [
        ([[0, 0, 1, 1]], [0, 1], None, "1 boxes, 2 labels"),
        ([[0, 0, 1, 1]], [0], [0.5, 0.6], "2 scores do not belong together"),
        ([[0, 0, 1, 1], [0, 0, np.nan, 1]], [0, 0], None, "Box number 1 is .*nan"),
        ([[0, 0, 1, 1]], [3], None, "from 3 to 3, but there are 3 class names"),
        ([[0, 0, 1, 1]], [-1], None, "from -1 to -1"),
    ],
)
def test_detections_that_do_not_fit_are_refused(boxes, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(grey(10, 10), boxes, labels, NAMES, scores)


def test_an_empty_sheet_is_refused():
    with pytest.raises(ValueError, match="0 images in 3 columns"):
        contact_sheet([], 3)
    with pytest.raises(ValueError, match="1 images in 0 columns"):
        contact_sheet([grey(4, 4)], 0)
