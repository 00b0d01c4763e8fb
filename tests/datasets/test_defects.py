"""Reading with defects collected instead of raised, parts of a set, and sets without their empty images."""

import dataclasses
import shutil

import numpy as np
import pytest
from test_datasets import (
    TINY_COCO,
    VOC_2007,
    assert_same,
    break_corner,
    break_difficult,
    break_missing_picture,
    break_missing_xml,
    break_name,
    break_size,
    break_twice,
    break_xml,
    edit,
)

from public.input import ImageError
from tests.helpers.tiny_data import TINY_CLASSES, write_coco, write_voc, write_voc_xml


def sparse(data):
    return dataclasses.replace(data, keep_empty_images=False)


def test_voc_images_without_anything_to_train_on_can_be_left_out(tmp_path):
    """Where difficult objects are trained on, an image that has only such is not empty; otherwise it is."""
    written = write_voc(tmp_path, num_images=16, max_objects=1)
    with_any = [image for image in written if image.boxes]
    with_plain = [image for image in written if not all(image.difficult)]
    assert 0 < len(with_plain) < len(with_any) < len(written)
    assert_same(sparse(VOC_2007).read(tmp_path), with_any)
    assert_same(sparse(dataclasses.replace(VOC_2007, use_difficult=False)).read(tmp_path), with_plain)


@pytest.mark.parametrize(("write", "data"), [(write_voc, VOC_2007), (write_coco, TINY_COCO)])
def test_an_image_whose_boxes_are_all_dropped_is_empty(tmp_path, write, data):
    written = write(tmp_path, num_images=3)
    if data is VOC_2007:
        file = tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml"
        write_voc_xml(file, size=(48, 64), objects=[("cat", (9, 9, 9, 9), False)])
    else:
        edit(tmp_path, lambda c: [a.update(bbox=[1, 1, 0, 5]) for a in c["annotations"] if a["image_id"] == 10])
    assert len(data.read(tmp_path)) == 3
    kept = sparse(data).read(tmp_path)
    assert kept.image_ids.tolist() == [written[1].image_id]
    assert len(kept.dropped) >= 1


def test_a_set_of_empty_images_only_is_refused(tmp_path):
    write_voc(tmp_path, num_images=1)
    write_voc_xml(tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml", size=(48, 64), objects=[])
    data = dataclasses.replace(VOC_2007, classes=TINY_CLASSES)
    assert len(data.read(tmp_path)) == 1
    with pytest.raises(ValueError, match="none of the 1 has an object to train on, and keep_empty_images is False"):
        sparse(data).read(tmp_path)


@pytest.mark.parametrize(("write", "data"), [(write_voc, VOC_2007), (write_coco, TINY_COCO)])
def test_taking_images_in_any_order_takes_their_objects(tmp_path, write, data):
    written = write(tmp_path)
    annotations = data.read(tmp_path)
    order = [6, 0, 7, 3]
    part = annotations.take(order, "some")
    assert_same(part, [written[i] for i in order])
    assert part.description == "some"
    assert annotations.take(range(8), annotations.description).fingerprint() == annotations.fingerprint()
    firsts = [annotations.areas[annotations.offsets[i] : annotations.offsets[i + 1]] for i in order]
    np.testing.assert_array_equal(part.areas, np.concatenate(firsts))


@pytest.mark.parametrize(
    "breaking", [break_missing_xml, break_xml, break_size, break_corner, break_name, break_difficult, break_twice]
)
def test_collecting_leaves_out_what_is_broken_and_keeps_the_rest(tmp_path, breaking):
    """The very words that the strict reading raises are told, and all other images are as they were written."""
    written = write_voc(tmp_path, num_images=4)
    breaking(tmp_path / "VOCdevkit/VOC2007")
    defects = []
    annotations = VOC_2007.read(tmp_path, TINY_CLASSES, on_defect=defects.append)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        VOC_2007.read(tmp_path, TINY_CLASSES)
    assert str(caught.value) == defects[0].message
    assert all(defect.leaves_out for defect in defects)
    kept = {annotations.image_id(i): annotations.objects(i) for i in range(len(annotations))}
    for image in (image for image in written if image.image_id != "train_0001"):
        assert kept[image.image_id].boxes.tolist() == [list(map(float, box)) for box in image.boxes]


def test_a_missing_picture_keeps_its_objects_where_defects_are_collected(tmp_path):
    written = write_voc(tmp_path, num_images=3)
    break_missing_picture(tmp_path / "VOCdevkit/VOC2007")
    defects = []
    annotations = VOC_2007.read(tmp_path, on_defect=defects.append)
    assert [defect.kind for defect in defects] == ["missing picture"]
    assert annotations.image_path(1) == defects[0].file
    assert annotations.objects(1).boxes.tolist() == [list(map(float, box)) for box in written[1].boxes]
    with pytest.raises(ImageError, match=r"train_0001\.jpg: missing, though"):
        annotations.fingerprint()
    fingerprint = annotations.fingerprint(allow_missing=True)
    shutil.copy(tmp_path / "VOCdevkit/VOC2007/JPEGImages/train_0000.png", annotations.image_path(1))
    assert annotations.fingerprint(allow_missing=True) == annotations.fingerprint() != fingerprint


def test_with_a_left_out_image_go_its_annotations_without_a_second_message(tmp_path):
    written = write_coco(tmp_path, num_images=4)
    edit(tmp_path, lambda content: content["images"][2].pop("height"))  # falling order: the second by id
    defects = []
    annotations = TINY_COCO.read(tmp_path, on_defect=defects.append)
    assert [defect.kind for defect in defects] == ["broken annotation"]
    assert_same(annotations, [image for image in written if image.image_id != 17])


def test_true_is_no_id_though_python_takes_it_for_1(tmp_path):
    """An annotation of image `true` does not land in image 1."""
    write_coco(tmp_path, num_images=3)

    def change(content):
        for image in content["images"]:
            image["id"] = (image["id"] - 10) // 7  # 0, 1, 2
        for item in content["annotations"]:
            item["image_id"] = 1
        content["annotations"][0]["image_id"] = True

    edit(tmp_path, change)
    with pytest.raises(ValueError, match=r"annotation 1000 has image_id true, which is none of the 3 image ids"):
        TINY_COCO.read(tmp_path)
