"""Objects of one picture pasted into another, by their boxes (after Ghiasi et al., Simple Copy-Paste, 2012.07177).

The paper cuts objects out along their masks, which detection sets do not have: here the whole box goes over, with what it
holds of its background (Dwibedi et al., Cut, Paste and Learn, 1708.01642, look at what such edges do).
"""

import math
from dataclasses import dataclass

import numpy as np

from public.datasets.sample import Sample
from public.settings import Count, Probability
from public.settings import check as check_settings
from public.transforms.objects import joined, with_all_objects


@dataclass(frozen=True, kw_only=True)
class CopyPaste:
    """With probability `prob`, pastes objects of one other picture of the set at random places, size and pixels kept.

    `max_objects` times one of its objects is drawn, any of them, and a place in whole pixels at which it lies inside the
    picture, each as likely.  Cut out are the pixels that its box touches.  It is left out where it does not fit, and where
    it would cover more than `max_covered` of the box of an object that is there, the pasted ones included.

    Fields:
        max_covered: part of a box's area.
    """

    prob: Probability
    max_objects: Count
    max_covered: Probability

    def __post_init__(self) -> None:
        check_settings(self)

    def partners(self, rng: np.random.Generator, num_images: int) -> list[int]:
        """One picture of the set, any of them."""
        return [int(rng.integers(num_images))]

    def __call__(self, sample: Sample, rng: np.random.Generator, partners: list[Sample]) -> Sample:
        is_applied, draws = rng.random() < self.prob, rng.random((self.max_objects, 3))
        (other,) = partners
        if not is_applied or len(other.boxes) == 0:
            return sample
        image, boxes, chosen = sample.image.copy(), [box.astype(np.float64) for box in sample.boxes], []
        height, width = image.shape[:2]
        for which, down, right in draws:
            number = int(which * len(other.boxes))
            box = other.boxes[number].astype(np.float64)
            x1, y1, x2, y2 = *(math.floor(side) for side in box[:2]), *(math.ceil(side) for side in box[2:])
            cut = other.image[y1:y2, x1:x2]
            if cut.shape[0] > height or cut.shape[1] > width:
                continue
            top, left = int(down * (height - cut.shape[0] + 1)), int(right * (width - cut.shape[1] + 1))
            place = np.array([left, top, left + cut.shape[1], top + cut.shape[0]])
            if any(_covered(there, place) > self.max_covered for there in boxes):
                continue
            image[place[1] : place[3], place[0] : place[2]] = cut
            boxes.append(box + np.array([left - x1, top - y1] * 2))
            chosen.append(number)
        pasted = type(other.objects)(*(values[chosen] for values in other.objects))
        objects = joined([sample.objects, pasted])
        return with_all_objects(sample, image, objects._replace(boxes=np.array(boxes).reshape(-1, 4)))


def _covered(box: np.ndarray, place: np.ndarray) -> float:
    """The part of `box` that `place` covers."""
    width, height = (np.minimum(box[2:], place[2:]) - np.maximum(box[:2], place[:2])).clip(min=0)
    return width * height / np.prod(box[2:] - box[:2])
