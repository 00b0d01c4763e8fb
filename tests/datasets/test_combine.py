"""Several sets as one, and one set as two: unions, and the seeded rule of a split."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from public.config import classes_of, freeze, thaw
from public.datasets.coco import Coco
from public.datasets.combine import Joined, Split
from public.datasets.pictures import load_sample
from public.datasets.voc import Voc
from tests.helpers.tiny_data import TINY_CLASSES, write_coco, write_voc, write_voc_xml

VOC = Voc(sources=("first/train",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
COCO = Coco(annotations="second.json", images="pictures", classes=TINY_CLASSES, keep_empty_images=True)
JOINED = Joined(sets=(VOC, COCO))


def split(data, part, *, val_fraction=0.3, seed=0):
    return Split(data=data, part=part, val_fraction=val_fraction, seed=seed)


@pytest.fixture
def data_root(tmp_path):
    write_voc(tmp_path, folder="first", num_images=12)
    write_coco(tmp_path, annotations="second.json", images="pictures", num_images=12, size=(40, 56), seed=1)
    return tmp_path


def ids(annotations):
    return annotations.image_ids.tolist()


# ------------------------------------------------------------------------------------------------------- unions


def test_a_union_holds_every_set_image_by_image(data_root):
    joined = JOINED.read(data_root)
    parts = [data.read(data_root) for data in JOINED.sets]
    assert len(joined) == 24
    assert ids(joined) == [f"0:{i}" for i in ids(parts[0])] + [f"1:{i}" for i in ids(parts[1])]
    position = 0
    for part in parts:
        for i in range(len(part)):
            assert Path(joined.image_path(position)).resolve() == Path(part.image_path(i)).resolve()
            assert (joined.heights[position], joined.widths[position]) == (part.heights[i], part.widths[i])
            for own, original in zip(joined.objects(position), part.objects(i)):
                np.testing.assert_array_equal(own, original)
            load_sample(joined, position)
            position += 1
    np.testing.assert_array_equal(joined.areas, np.concatenate([part.areas for part in parts]))
    assert joined.difficult.any()
    assert joined.crowd.any()
    assert joined.category_ids == parts[0].category_ids
    assert "24 images" in joined.summary()
    assert ids(joined.limit(7)) == ids(joined)[:7]


def test_the_first_set_gives_the_classes_and_the_others_have_to_agree(data_root):
    free = Joined(sets=(VOC, Coco(annotations="second.json", images="pictures", classes=None, keep_empty_images=True)))
    assert free.read(data_root).class_names == TINY_CLASSES
    assert free.read(data_root, TINY_CLASSES).class_names == TINY_CLASSES
    with pytest.raises(ValueError, match=r"\('bird', 'cat', 'dog'\).*\('dog', 'cat', 'bird'\)"):
        free.read(data_root, ("dog", "cat", "bird"))
    write_voc_xml(data_root / "first/Annotations/train_0000.xml", size=(48, 64), objects=[("cow", (1, 1, 9, 9), False)])
    turned = Joined(sets=(COCO, Voc(sources=VOC.sources, classes=None, use_difficult=True, keep_empty_images=True)))
    with pytest.raises(ValueError, match=r"train_0000\.xml: object 0 is a 'cow'"):
        turned.read(data_root)


def test_a_picture_in_two_of_the_sets_is_refused(data_root):
    (data_root / "first/ImageSets/Main/again.txt").write_text("train_0003\n")
    again = Voc(sources=("./first/again",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
    with pytest.raises(
        ValueError, match=r"train_0003\.png is in two of the joined sets, VOC first/train and VOC \./first"
    ):
        Joined(sets=(VOC, again)).read(data_root)


def test_sets_have_to_agree_on_difficult_objects_only_where_they_have_some(data_root):
    write_voc(data_root, folder="third", num_images=12, seed=3)
    strict = Voc(sources=("third/train",), classes=TINY_CLASSES, use_difficult=False, keep_empty_images=True)
    assert strict.read(data_root).difficult.any()
    with pytest.raises(ValueError, match="VOC first/train trains on difficult objects, VOC third/train does not"):
        Joined(sets=(VOC, strict)).read(data_root)
    assert Joined(sets=(COCO, strict)).read(data_root).use_difficult is False
    assert Joined(sets=(strict, COCO)).read(data_root).use_difficult is False
    assert JOINED.read(data_root).use_difficult is True


def test_notes_and_defects_of_all_sets_come_through(data_root):
    file = data_root / "first/Annotations/train_0000.xml"
    write_voc_xml(file, size=(48, 64), objects=[("cat", (9, 9, 10, 10), False), ("dog", (1, 1, 99, 20), False)])
    content = json.loads((data_root / "second.json").read_text())
    content["annotations"][0]["bbox"] = [1, 1, -5, 5]
    content["annotations"][1]["category_id"] = 77
    (data_root / "second.json").write_text(json.dumps(content))
    defects = []
    joined = JOINED.read(data_root, on_defect=defects.append)
    assert [defect.kind for defect in defects] == ["empty box", "clipped box", "unknown reference", "inverted box"]
    assert len(joined.dropped) == 2
    assert len(joined.clipped) == 1
    with pytest.raises(ValueError, match="has category_id 77"):
        JOINED.read(data_root)


def test_unions_of_unions_and_an_empty_one(data_root):
    write_voc(data_root, folder="third", num_images=3, seed=3)
    third = Voc(sources=("third/train",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
    nested = Joined(sets=(JOINED, third)).read(data_root)
    assert [ids(nested)[i] for i in (0, 12, 24)] == ["0:0:train_0000", "0:1:10", "1:train_0000"]
    assert all(Path(nested.image_path(i)).is_file() for i in range(len(nested)))
    with pytest.raises(ValueError, match=r"Joined\.sets is \(\)"):
        Joined(sets=())


# ------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("data", [VOC, COCO, JOINED])
def test_the_parts_are_disjoint_and_complete_and_hold_the_same_images(data_root, data):
    whole = data.read(data_root)
    parts = [split(data, part).read(data_root) for part in ("train", "val")]
    assert all(len(part) for part in parts)
    assert sorted(ids(parts[0]) + ids(parts[1]), key=ids(whole).index) == ids(whole)
    for part in parts:
        assert part.class_names == whole.class_names
        for i in range(len(part)):
            original = ids(whole).index(part.image_id(i))
            assert part.image_path(i) == whole.image_path(original)
            assert (part.heights[i], part.widths[i]) == (whole.heights[original], whole.widths[original])
            for own, other in zip(part.objects(i), whole.objects(original)):
                np.testing.assert_array_equal(own, other)
    assert sum(part.areas.sum() for part in parts) == whole.areas.sum()
    assert parts[0].fingerprint() != parts[1].fingerprint()
    assert "val part (0.3 is val, seed 0) of" in parts[1].summary()


def test_the_rule_is_the_one_that_is_written_down(data_root):
    """blake2b over (seed, "split", id), written out again: the rule may never change under an experiment."""
    for data in (VOC, COCO):
        expected = []
        for image_id in ids(data.read(data_root)):
            text = repr((7, "split", image_id)).encode()
            share = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") / 2**64
            expected += [image_id] * (share < 0.4)
        assert ids(split(data, "val", val_fraction=0.4, seed=7).read(data_root)) == expected


def test_images_that_come_or_go_and_their_order_move_no_other(data_root):
    listing = data_root / "first/ImageSets/Main/train.txt"
    before = set(ids(split(VOC, "val", val_fraction=0.5).read(data_root)))
    names = listing.read_text().split()
    for image_id in ("new_a", "new_b", "new_c", "new_d"):
        shutil.copy(data_root / "first/Annotations/train_0000.xml", data_root / f"first/Annotations/{image_id}.xml")
        shutil.copy(data_root / "first/JPEGImages/train_0000.png", data_root / f"first/JPEGImages/{image_id}.png")
    listing.write_text("\n".join(["new_a", "new_b", *names[::-1], "new_c", "new_d"]))
    after = set(ids(split(VOC, "val", val_fraction=0.5).read(data_root)))
    assert 0 < len(before) < len(names)
    assert {image_id for image_id in after if not image_id.startswith("new")} == before
    listing.write_text("\n".join(names[1:]))
    assert set(ids(split(VOC, "val", val_fraction=0.5).read(data_root))) == before - {names[0]}


def test_leaving_out_empty_images_in_training_moves_no_image(data_root):
    sparse = Coco(annotations="second.json", images="pictures", classes=TINY_CLASSES, keep_empty_images=False)
    full = [set(ids(split(COCO, part).read(data_root))) for part in ("train", "val")]
    kept = set(ids(sparse.read(data_root)))
    assert len(kept) < len(full[0] | full[1])
    for part, everything in zip(("train", "val"), full):
        assert set(ids(split(sparse, part).read(data_root))) == everything & kept


def test_fraction_and_seed_do_what_they_say(tmp_path):
    """Of 2,000 images 10 % land in val within four standard deviations; another seed is another draw; more is a superset."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 10} for i in range(2000)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "many.json").write_text(json.dumps(content))
    data = Coco(annotations="many.json", images=".", classes=None, keep_empty_images=True)

    def val(val_fraction, seed):
        return set(ids(split(data, "val", val_fraction=val_fraction, seed=seed).read(tmp_path)))

    tenth, other, fifth = val(0.1, 0), val(0.1, 1), val(0.2, 0)
    deviation = (2000 * 0.1 * 0.9) ** 0.5
    assert abs(len(tenth) - 200) < 4 * deviation
    assert abs(len(other) - 200) < 4 * deviation
    assert tenth < fifth
    assert abs(len(tenth & other) - 20) < 4 * (2000 * 0.01 * 0.99) ** 0.5  # independent draws


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "test"}, r"Split\.part is 'test'"),
        ({"val_fraction": 0}, r"val_fraction is 0"),
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Split(**({"data": VOC, "part": "val", "val_fraction": 0.1, "seed": 0} | changes))


def test_a_part_without_images_is_refused_and_says_what_to_change(data_root):
    with pytest.raises(
        ValueError, match=r"val part .* none of the 12 images is in it; change val_fraction or the seed"
    ):
        split(VOC, "val", val_fraction=1e-9).read(data_root)


def test_both_are_frozen_and_thawed_with_what_they_hold():
    value = Split(data=Joined(sets=(JOINED, split(VOC, "train"), COCO)), part="val", val_fraction=0.25, seed=3)
    frozen = json.loads(json.dumps(freeze(value)))
    assert thaw(frozen, classes_of(value)) == value
    assert set(classes_of(value)) == {"Split", "Joined", "Voc", "Coco"}
