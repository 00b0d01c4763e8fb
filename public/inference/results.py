"""What `detect` found, file by file or frame by frame, and its two JSON files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from public.files import write_text
from public.text import as_json


class Results:
    """Collects detections.

    Attributes:
        header: what stands above the entries in the JSON file.
        entries: one dict an image or frame: `file`, or `frame` (from 0) and `seconds`; `width` and `height` in pixels;
            `detections`, a list of {box: [x1, y1, x2, y2], score, label, name} by falling score; or `file` and `error`.
        problems: what could not be read, one line each.
        is_stopped: Ctrl-C ended the work early.
    """

    def __init__(self, *, class_names: Sequence[str], source: str, weights: str, score_threshold: float):
        self.header: dict[str, Any] = {
            "source": source,
            "weights": weights,
            "score_threshold": score_threshold,
            "class_names": list(class_names),
        }
        self.entries: list[dict] = []
        self.problems: list[str] = []
        self.is_stopped = False

    def add(self, found: dict, *, height: int, width: int, **place) -> None:
        """The detections of one image; `place` says which: file=..., or frame=... and seconds=..."""
        rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), found["names"])
        detections = [{"box": box, "score": score, "label": label, "name": name} for box, score, label, name in rows]
        self.entries.append({**place, "width": width, "height": height, "detections": detections})

    def add_unreadable(self, file: str, reason: str) -> None:
        self.entries.append({"file": file, "error": reason})
        self.problems.append(reason)

    @property
    def num_read(self) -> int:
        """Images or frames that were looked at."""
        return len(self._read())

    def summary(self) -> str:
        """One line: how many images, how many objects of which class."""
        names = Counter(found["name"] for entry in self._read() for found in entry["detections"])
        what = "frames" if any("frame" in entry for entry in self.entries) else "images"
        listed = ", ".join(f"{count} {name}" for name, count in names.most_common())
        threshold = self.header["score_threshold"]
        return f"{self.num_read} {what}, {names.total()} objects with a score of at least {threshold:g}" + (
            f": {listed}" if listed else ""
        )

    def write(self, path: Path) -> Path:
        """Writes `path` and, beside it, <name>_coco.json; returns the latter."""
        coco_path = path.with_name(f"{path.stem}_coco{path.suffix or '.json'}")
        _write_json(path, self.header | {"images": self.entries})
        _write_json(coco_path, self.coco())
        return coco_path

    def coco(self) -> dict:
        """The results as a COCO annotation file, so that they can be opened, corrected and trained on.

        `bbox` is x y width height in pixels.  Image ids count from 1; category ids are the labels plus 1.
        """
        images, annotations = [], []
        for image_id, entry in enumerate(self._read(), start=1):
            place = {"file_name": entry.get("file", self.header["source"])}
            place |= {"frame": entry["frame"]} if "frame" in entry else {}
            images.append({"id": image_id, **place, "width": entry["width"], "height": entry["height"]})
            for found in entry["detections"]:
                x1, y1, x2, y2 = found["box"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": found["label"] + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "score": found["score"],
                    }
                )
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.header["class_names"])]
        return {"images": images, "categories": categories, "annotations": annotations}

    def _read(self) -> list[dict]:
        return [entry for entry in self.entries if "error" not in entry]


def _write_json(path: Path, value: dict) -> None:
    """Lists of dicts stand with one item a line, so that a file of thousands of images can be read and compared."""
    parts = []
    for key, item in value.items():
        is_table = isinstance(item, list) and item and isinstance(item[0], dict)
        text = "[\n" + ",\n".join(as_json(row) for row in item) + "\n]" if is_table else as_json(item)
        parts.append(f"{as_json(key)}: {text}")
    whole = "{\n" + ",\n".join(parts) + "\n}\n"
    write_text(path, whole)
