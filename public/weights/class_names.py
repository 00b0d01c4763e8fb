"""The names of the classes of weights that come without names."""

from pathlib import Path

from public.datasets.voc import VOC_CLASSES

COCO_CLASSES = (  # the names of instances_val2017.json, by rising category id
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip

# Category ids that instances_val2017.json leaves free; torchvision's detectors predict by category id and have columns for
# them, and for 0, the background, which are never a target.
FREE_COCO_IDS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _by_category_id() -> tuple[str, ...]:
    names = iter(COCO_CLASSES)
    return tuple(f"unused {label}" if label in FREE_COCO_IDS else next(names) for label in range(91))


TORCHVISION_COCO_CLASSES = _by_category_id()


def class_names(
    num_classes: int, file: Path | None = None, known: tuple[str, ...] = COCO_CLASSES
) -> tuple[tuple[str, ...], str]:
    """`num_classes` names and a line that says where they are from.

    From `file`, one name a line, where one is given; else those of the released weights (`known`) for as many classes, and
    VOC's for 20; else class_0, class_1,
    ..., because weights do not say what they find.

    Raises:
        ValueError: the file has another number of names, or one of them twice.
        FileNotFoundError: there is no such file.
    """
    if file is not None:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
        if len(names) != num_classes:
            raise ValueError(f"{file} has {len(names)} names, one a line, but the weights have {num_classes} classes")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{file} names these classes twice: {', '.join(twice)}")
        return names, f"class names: from {file}"
    for names, origin in (
        (known, "COCO's" if known == COCO_CLASSES else "those of the released weights,"),
        (VOC_CLASSES, "VOC's"),
    ):
        if num_classes == len(names):
            return names, f"class names: {origin} {num_classes}, by their number (--class_names FILE gives others)"
    made = tuple(f"class_{label}" for label in range(num_classes))
    return (
        made,
        f"class names: class_0 .. class_{num_classes - 1}, since none are known (--class_names FILE gives them)",
    )
