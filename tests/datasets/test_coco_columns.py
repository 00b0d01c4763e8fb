"""A COCO json read as columns gives what it gives entry by entry; what is unusual has no columns; what is kept is safe."""

import json
import random

import numpy as np
import pytest

from public.datasets import coco, coco_columns
from public.datasets.coco import Coco, annotation_cache
from public.datasets.defects import Defect

ARRAYS = ("boxes", "labels", "difficult", "crowd", "areas", "offsets", "image_ids", "heights", "widths")


def made(num_images=40) -> dict:
    """Images and annotations in a drawn order; crowds, boxes over the edge, of no size, without an area."""
    draw = random.Random(0)
    images = [
        {"id": draw.randrange(10**12) * 50 + i, "file_name": f"ö{i}.jpg", "height": 48 + i, "width": 64, "license": 3}
        for i in range(num_images)
    ]
    annotations = []
    for number in range(5 * num_images):
        box = [draw.randrange(60), draw.uniform(-4, 40), draw.choice([0, 5, 12.5]), draw.uniform(1, 30)]
        item = {
            "id": 3 * number,
            "image_id": draw.choice(images)["id"],
            "category_id": draw.choice([4, 900]),
            "bbox": box,
        }
        item |= draw.choice([{}, {"area": 7}, {"area": 1e9}, {"area": 3.5, "segmentation": [[1, 2, 3.5, 4]]}])
        item |= draw.choice([{}, {"iscrowd": 0}, {"iscrowd": 1}, {"ignore": 1, "iscrowd": 0}])
        annotations.append(item)
    draw.shuffle(images)
    categories = [{"id": 900, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 7, "name": "none", "supercategory": "x"}]
    return {
        "info": {"n": [1.5]},
        "annotations": annotations,
        "licenses": [],
        "images": images,
        "categories": categories,
    }


def read(folder, **changes):
    defects: list[Defect] = []
    data = Coco(annotations="set.json", images="", classes=None, keep_empty_images=True)
    return data.read(folder, on_defect=defects.append, **changes), defects


def assert_equal(found, expected):
    (ours, our_defects), (theirs, their_defects) = found, expected
    for name in ARRAYS:
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.fingerprint(allow_missing=True) == theirs.fingerprint(allow_missing=True)
    assert (ours.dropped, ours.clipped, ours.corrected) == (theirs.dropped, theirs.clipped, theirs.corrected)
    assert (ours.category_ids, ours.class_names, ours.warnings) == (
        theirs.category_ids,
        theirs.class_names,
        theirs.warnings,
    )
    assert our_defects == their_defects


@pytest.fixture
def entry_by_entry(monkeypatch):
    """Reads as all files were read before there were columns."""

    def function(folder, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(coco, "read_columns", lambda *_, **__: None)
            return read(folder, **changes)

    return function


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}], ids=str)
@pytest.mark.parametrize("piece", [7, 1000, 1 << 22])
def test_columns_are_what_the_entries_say(tmp_path, monkeypatch, entry_by_entry, form, piece):
    """However the file is written, and wherever the pieces and batches of it end."""
    (tmp_path / "set.json").write_text(json.dumps(made(12 if piece == 7 else 40), **form), encoding="utf-8")
    expected = entry_by_entry(tmp_path)
    monkeypatch.setattr(coco_columns, "PIECE", piece)
    monkeypatch.setattr(coco_columns, "BATCH", 7 if piece == 1000 else 10_000)
    monkeypatch.setattr(coco, "_looked_at", None)  # is not needed
    assert_equal(read(tmp_path), expected)
    assert expected[0].dropped
    assert expected[0].clipped
    assert expected[0].corrected
    assert expected[0].crowd.any()


def first(kind, **changes):
    return lambda content: content[kind][0].update(changes)


UNUSUAL = {
    "text as id": first("annotations", id="7"),
    "an id twice": first("annotations", id=3),
    "an image's id twice": lambda content: content["images"][0].update(id=content["images"][1]["id"]),
    "a picture twice": lambda content: content["images"][0].update(file_name="./" + content["images"][1]["file_name"]),
    "a float as reference": lambda content: content["annotations"][0].update(
        image_id=float(content["images"][0]["id"])
    ),
    "an unknown image": first("annotations", image_id=3),
    "an unknown category": first("annotations", category_id=5),
    "a bool as category": first("annotations", category_id=True),
    "an id beyond 64 bits": first("images", id=2**64),
    "a box of three": first("annotations", bbox=[1, 2, 3]),
    "a box of text": first("annotations", bbox=[1, 2, 3, "4"]),
    "a box of bools": first("annotations", bbox=[1, 2, 3, True]),
    "a box that is no list": first("annotations", bbox={"0": 1, "1": 2, "2": 3, "3": 4}),
    "a box of NaN": first("annotations", bbox=[1, 2, 3, float("nan")]),
    "a box beyond floats": first("annotations", bbox=[1, 2, 3, 10**400]),
    "no box": lambda content: content["annotations"][0].pop("bbox"),
    "a negative area": first("annotations", area=-1),
    "no number as area": first("annotations", area=None),
    "crowd 2": first("annotations", iscrowd=2),
    "a height of 0": first("images", height=0),
    "a float as width": first("images", width=64.0),
    "no name": first("images", file_name=""),
    "a list as name": first("images", file_name=["a"]),
    "two categories of a name": first("categories", name="cat"),
    "a category without a name": lambda content: content["categories"][0].pop("name"),
    "an item that is no object": lambda content: content["annotations"].insert(0, 3),
    "no categories": lambda content: content.pop("categories"),
    "categories that are no list": lambda content: content.update(categories={}),
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_looked_at_entry_by_entry(tmp_path, change):
    content = made(5)
    change(content)
    (tmp_path / "set.json").write_text(json.dumps(content))
    assert coco_columns.read_columns(str(tmp_path / "set.json"), coco._is_image) is None


@pytest.mark.parametrize(
    "text",
    [
        *('{"images": []', '{"images": [], "annotations": [], "categories": []} x', "[]", "", "\xff", '{"images": [}'),
        '{"images": [], "images": [], "annotations": [], "categories": []}',
        '{"images": [{"id": 1,}], "annotations": [], "categories": []}',
    ],
)
def test_what_is_no_json_of_coco_has_no_columns(tmp_path, text):
    (tmp_path / "set.json").write_text(text, encoding="latin-1")
    assert coco_columns.read_columns(str(tmp_path / "set.json"), coco._is_image) is None


def test_empty_lists_and_a_mark_before_the_text(tmp_path):
    text = '{"images": [], "annotations": [ ], "categories": []}'
    (tmp_path / "set.json").write_text(text, encoding="utf-8-sig")
    columns = coco_columns.read_columns(str(tmp_path / "set.json"), coco._is_image)
    assert columns.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="no image to use"):
        read(tmp_path)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A json whose columns are kept, small as it is; the files of the cache."""
    monkeypatch.setattr(coco_columns, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr(coco_columns, "LEAST_BYTES", 1)
    (tmp_path / "set.json").write_text(json.dumps(made(8)))
    return lambda: sorted((tmp_path / "cache").glob("*"))


def test_the_second_start_reads_what_the_first_has_kept(tmp_path, monkeypatch, kept):
    expected = read(tmp_path)
    assert [path.suffix for path in kept()] == [".npz"]
    monkeypatch.setattr(coco_columns, "_top_level", None)
    assert_equal(read(tmp_path), expected)
    with annotation_cache(False), pytest.raises(TypeError, match="NoneType"):
        read(tmp_path)


def test_another_content_makes_the_kept_columns_go(tmp_path, kept, entry_by_entry):
    read(tmp_path)
    before = kept()
    (tmp_path / "other.json").write_text((tmp_path / "set.json").read_text())
    Coco(annotations="other.json", images="", classes=None, keep_empty_images=True).read(tmp_path)
    assert len(kept()) == 2, "another json, with columns of its own"
    (tmp_path / "set.json").write_text(json.dumps(made(9)))
    assert_equal(read(tmp_path), entry_by_entry(tmp_path))
    assert len(kept()) == 2
    assert before[0] not in kept()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: b"", lambda data: data[:400] + b"\0" + data[401:]]
)
def test_damaged_columns_are_made_anew(tmp_path, kept, damage):
    expected = read(tmp_path)
    (path,) = kept()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert_equal(read(tmp_path), expected)
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, kept, entry_by_entry):
    (tmp_path / "cache").write_text("not a folder")
    assert_equal(read(tmp_path), entry_by_entry(tmp_path))


def test_small_files_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_columns, "FOLDER", tmp_path / "cache")
    (tmp_path / "set.json").write_text(json.dumps(made(8)))
    read(tmp_path)
    assert not (tmp_path / "cache").exists()
