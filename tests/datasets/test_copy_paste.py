"""Pasted and erased rectangles of detection's samples, in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from public.datasets.sample import Sample
from public.random_streams import stream
from public.transforms.classification import RandomErasing
from public.transforms.copy_paste import CopyPaste

PASTE = CopyPaste(prob=1.0, max_objects=3, max_covered=0.0)


def sample_of(image: np.ndarray, boxes: list, first_label: int = 0) -> Sample:
    count = len(boxes)
    return Sample(
        image=image, boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4), labels=np.arange(count) + first_label,
        difficult=np.arange(count) % 2 == 1, crowd=np.zeros(count, dtype=bool), image_id=0, index=0,
        height=image.shape[0], width=image.shape[1],
    )  # fmt: skip


OWN = sample_of(np.zeros((40, 60, 3), dtype=np.uint8), [[0, 0, 30, 20]])
OTHER = sample_of(
    np.random.default_rng(0).integers(1, 256, (50, 50, 3), dtype=np.uint8), [[3.5, 4, 13, 10.25], [20, 20, 45, 28]], 7
)


def test_pasted_pixels_are_those_that_the_box_touches_and_the_box_moves_with_them():
    seen = set()
    for number in range(200):
        pasted = PASTE(OWN, stream(1, number), [OTHER])
        expected = np.zeros_like(OWN.image)
        assert pasted.boxes[0].tolist() == OWN.boxes[0].tolist()
        for box, label, difficult in zip(pasted.boxes[1:], pasted.labels[1:], pasted.difficult[1:]):
            source = OTHER.boxes[label - 7]
            assert difficult == OTHER.difficult[label - 7]
            np.testing.assert_allclose(box[2:] - box[:2], source[2:] - source[:2], rtol=1e-6)
            shift = box[:2] - source[:2]
            assert (shift == np.round(shift)).all()
            x1, y1, x2, y2 = *np.floor(source[:2]).astype(int), *np.ceil(source[2:]).astype(int)
            left, top = (shift + [x1, y1]).astype(int)
            expected[top : top + y2 - y1, left : left + x2 - x1] = OTHER.image[y1:y2, x1:x2]
            seen.add((int(label), left, top))
        assert np.array_equal(pasted.image, expected)
        assert not pasted.image[:20, :30].any(), "nothing covers the object that is there"
        boxes = pasted.boxes
        for i in range(1, len(boxes)):
            for j in range(i):
                overlap = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
                assert overlap.min() <= 0
    assert not OWN.image.any()
    for label, width, height in ((7, 10, 7), (8, 25, 8)):  # up to the very edges
        lefts, tops = ({place[axis] for place in seen if place[0] == label} for axis in (1, 2))
        assert max(lefts) == 60 - width
        assert max(tops) == 40 - height


def test_every_place_is_as_likely_where_anything_may_be_covered():
    free = replace(PASTE, max_objects=1, max_covered=1.0)
    small = sample_of(OTHER.image, [[0, 0, 58, 39]][:0] + [[0, 0, 49, 40]])
    lefts = [int(free(OWN, stream(2, number), [small]).boxes[1, 0]) for number in range(2400)]
    counts = np.bincount(lefts, minlength=12)
    assert len(counts) == 12
    assert (
        (counts - 200) ** 2 / 200
    ).sum() < 33  # chi squared of 11 degrees of freedom, one case in a thousand is above 31.3


def test_what_does_not_fit_or_is_not_drawn_leaves_the_sample_as_it_is():
    large = sample_of(np.full((90, 90, 3), 5, dtype=np.uint8), [[0, 0, 61, 10], [0, 0, 10, 41]])
    for other, transform in ((large, PASTE), (sample_of(OTHER.image, []), PASTE), (OTHER, replace(PASTE, prob=0.0))):
        found = transform(OWN, stream(1, 0), [other])
        assert np.array_equal(found.image, OWN.image)
        assert np.array_equal(found.boxes, OWN.boxes)
    with pytest.raises((TypeError, ValueError), match=r"CopyPaste\.max_covered"):
        replace(PASTE, max_covered=1.5)


def test_partners_are_any_picture():
    assert {PASTE.partners(stream(1, number), 5)[0] for number in range(100)} == set(range(5))


def test_erasing_covers_a_rectangle_and_no_object_is_dropped():
    """With a square of a quarter of the area: the rectangle is known but for its place."""
    erase = RandomErasing(prob=1.0, area=(0.25, 0.25), aspect_ratio=(1.0, 1.0), fill=(9, 8, 7), num_attempts=1)
    places = set()
    for number in range(300):
        erased = erase(OWN, stream(1, number))
        rows, columns = np.nonzero((erased.image == (9, 8, 7)).all(axis=2))
        assert (len(rows), np.ptp(rows) + 1, np.ptp(columns) + 1) == (24 * 24, 24, 24)  # sqrt(40 * 60 / 4) is 24.5
        assert np.array_equal(erased.boxes, OWN.boxes)
        places.add((rows.min(), columns.min()))
    assert max(row for row, _ in places) == 40 - 24
    assert max(column for _, column in places) == 60 - 24
    assert not OWN.image.any()
