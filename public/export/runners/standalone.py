"""Runs an exported .onnx file without torch and without the rest of this project: copy this one file beside it.

    pip install numpy opencv-python onnxruntime
    python standalone.py network.onnx street.jpg --score_threshold 0.4 --output found.jpg

Everything it needs to know stands in the file's own metadata, written by python -m public.test_scripts.export with --input
image (as it does unless told otherwise) and --outputs boxes or detections; of a classifier, raw.

    runner = Runner("network.onnx")
    found = runner(picture)      # uint8 RGB (H, W, 3) -> {"boxes", "scores", "labels", "names"}, in pixels of the picture
"""

import argparse
import json
import os
import sys

import cv2
import numpy as np
import onnxruntime

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
LONGEST = 32  # times as long as wide: of longer pictures a classifier sees the middle


class Runner:
    """The network in `path`, ready to use.

    Raises:
        ValueError: the file has no card, or gives or takes what this file does not know.
    """

    def __init__(self, path: str, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        text = self.session.get_modelmeta().custom_metadata_map.get("encore")
        if text is None:
            raise ValueError(f"{path} has no card: it was not written by python -m public.test_scripts.export")
        self.card = json.loads(text)
        if self.card["input_form"] != "image":
            raise ValueError(f"{path} takes normalised images; export it with --input image")
        if self.card["kind"] == "detector" and self.card["outputs"] == "raw":
            raise ValueError(f"{path} gives raw outputs; export it with --outputs boxes or detections")
        (self.spec,) = self.card["input"].values()
        self.names = self.card["class_names"]

    def __call__(self, picture: np.ndarray, score_threshold: float = 0.0) -> dict:
        """Of uint8 RGB (H, W, 3): boxes (N, 4) x1 y1 x2 y2 in its pixels, scores (N,), labels (N,), names, best first."""
        if self.card["kind"] == "classifier":
            return self._classified(picture)
        height, width = picture.shape[:2]
        canvas, scale_x, scale_y = prepare(picture, self.spec)
        region = [0, 0, int(width * scale_x + 1e-6), int(height * scale_y + 1e-6)]
        outputs = self._run(canvas, region)
        if self.card["outputs"] == "detections":
            count = int(outputs["counts"][0])
            if count < 0:
                raise ValueError("the network's outputs are NaN or infinite, so its weights are broken")
            boxes, scores, labels = (outputs[name][0, :count] for name in ("boxes", "scores", "labels"))
        else:
            scores = outputs["scores"][0]  # (A, K)
            candidates = outputs["candidates"][0] if "candidates" in outputs else scores
            if self.card["decoder"]["one_class_a_box"]:
                candidates = np.where(np.arange(scores.shape[1]) == scores.argmax(1)[:, None], scores, 0)
            card = self.card
            if "level_sizes" in outputs:  # a file for any size says how large its levels came out
                cells = outputs["level_sizes"][0].prod(1)
                card = card | {"level_lengths": (cells * np.array(card["anchors_of_cell"])).tolist()}
            boxes, scores, labels = suppress(outputs["boxes"][0], scores, candidates, card, region)
        boxes = boxes / np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        if self.card["decoder"]["clips_to_picture"]:
            boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
        kept = scores >= score_threshold
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        names = [self.names[label] for label in labels]
        return {"boxes": boxes, "scores": scores, "labels": labels, "names": names}

    def _classified(self, picture: np.ndarray) -> dict:
        (logits,) = self._run(crop(picture, self.spec), None).values()
        shares = np.exp(logits[0].astype(np.float64) - logits[0].max())
        shares /= shares.sum()
        labels = np.argsort(-shares, kind="stable")[:5]
        return {"labels": labels, "scores": shares[labels], "names": [self.names[label] for label in labels]}

    def _run(self, canvas: np.ndarray, region: list | None) -> dict:
        count = self.card["batch"] or 1
        inputs = {"images": np.repeat(canvas[None], count, axis=0)}
        if "regions" in self.card["input_names"]:
            inputs["regions"] = np.repeat(np.array([region], np.int64), count, axis=0)
        return dict(zip(self.card["output_names"], self.session.run(None, inputs)))


def prepare(picture: np.ndarray, spec: dict) -> tuple[np.ndarray, float, float]:
    """The picture at the network's size, and by how much x and y were scaled; it lies at the upper left."""
    height, width = picture.shape[:2]
    rows, columns = spec["size"]
    factor = None
    if spec["resize"] == "stretch":
        new_height, new_width = rows, columns
    elif spec["resize"] == "letterbox" and rows * width <= columns * height:
        new_height, new_width = rows, max(width * rows // height, 1)
    elif spec["resize"] == "letterbox":
        new_height, new_width = max(height * columns // width, 1), columns
    elif spec["resize"] == "letterbox_by_ratio":
        factor = min(rows / height, columns / width)
        new_height, new_width = max(int(height * factor), 1), max(int(width * factor), 1)
    else:
        raise ValueError(f"pictures are resized by the rule {spec['resize']}, which this file does not know")
    if (new_height, new_width) != (height, width):
        picture = cv2.resize(picture, (new_width, new_height), interpolation=INTERPOLATIONS[spec["interpolation"]])
    padding = (0, rows - new_height, 0, columns - new_width)
    if any(padding):
        picture = cv2.copyMakeBorder(picture, *padding, cv2.BORDER_CONSTANT, value=(spec["padding"],) * 3)
    return picture, factor or new_width / width, factor or new_height / height


def crop(picture: np.ndarray, spec: dict) -> np.ndarray:
    """The middle of the picture, after its shorter side was resized, as a classifier takes it."""
    height, width = picture.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        kept = LONGEST * min(height, width)
        top, left = max(height - kept, 0) // 2, max(width - kept, 0) // 2
        return crop(picture[top : top + kept, left : left + kept], spec)
    shorter = min(height, width)
    new_height, new_width = (spec["shorter_side"] * side // shorter for side in (height, width))
    if (new_height, new_width) != (height, width):
        is_larger = spec["shorter_side"] > shorter
        name = "linear" if spec["interpolation"] == "area" and is_larger else spec["interpolation"]
        picture = cv2.resize(picture, (new_width, new_height), interpolation=INTERPOLATIONS[name])
    rows, columns = spec["size"]
    top, left = round((new_height - rows) / 2), round((new_width - columns) / 2)
    return np.ascontiguousarray(picture[top : top + rows, left : left + columns])


def suppress(
    boxes: np.ndarray, scores: np.ndarray, chosen_by: np.ndarray, card: dict, region: list
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (A, 4) and scores (A, K) of one picture -> the boxes, scores and labels that are left, by falling score."""
    decoder = card["decoder"]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("the network's outputs are NaN or infinite, so its weights are broken")
    if decoder["is_clipped"]:
        left, top, right, bottom = region
        low, high = np.array([left, top] * 2, np.float32), np.array([right, bottom] * 2, np.float32)
        boxes = np.minimum(np.maximum(boxes, low), high)
    labels, anchors = np.nonzero(decoder["score_threshold"] < chosen_by.T)  # by class, then by anchor
    order = np.argsort(-chosen_by[anchors, labels], kind="stable")
    labels, anchors = labels[order], anchors[order]
    if decoder["nms_top_k"] is not None:
        groups = labels
        if decoder["candidates_of"] == "level":
            groups = np.searchsorted(np.cumsum(card["level_lengths"]), anchors, side="right")
        first = np.zeros(len(groups), bool)
        for group in np.unique(groups):
            first[np.flatnonzero(groups == group)[: decoder["nms_top_k"]]] = True
        labels, anchors = labels[first], anchors[first]
    if decoder["drops_empty"]:
        has_area = (boxes[anchors, 2:] > boxes[anchors, :2]).all(1)
        labels, anchors = labels[has_area], anchors[has_area]
    order = np.lexsort((anchors, labels, -scores[anchors, labels]))  # the last key counts most
    labels, anchors = labels[order], anchors[order]
    kept = _survivors(boxes[anchors], labels, decoder["nms_iou"], decoder["keep_top_k"])
    labels, anchors = labels[kept], anchors[kept]
    return boxes[anchors], scores[anchors, labels], labels


def _survivors(boxes: np.ndarray, labels: np.ndarray, threshold: float | None, wanted: int | None) -> list[int]:
    """Positions of the boxes, given by falling score, that no better one of their class overlaps."""
    if threshold is None:
        return list(range(len(boxes)))[:wanted]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_left = np.ones(len(boxes), bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not is_left[i]:
            continue
        kept.append(i)
        if wanted is not None and len(kept) == wanted:
            break
        rest = i + 1 + np.flatnonzero(is_left[i + 1 :] & (labels[i + 1 :] == labels[i]))
        corners = np.maximum(boxes[i, :2], boxes[rest, :2]), np.minimum(boxes[i, 2:], boxes[rest, 2:])
        shared = (corners[1] - corners[0]).clip(min=0).prod(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            is_left[rest[shared / (areas[i] + areas[rest] - shared) > threshold]] = False
    return kept


def draw(picture: np.ndarray, found: dict) -> np.ndarray:
    """A copy of the picture with the boxes in it."""
    picture = picture.copy()
    for box, score, label, name in zip(found["boxes"], found["scores"], found["labels"], found["names"]):
        color = tuple(int(value) for value in (np.array([37, 97, 173]) * (int(label) + 3)) % 200 + 40)
        left, top, right, bottom = (round(float(value)) for value in box)
        cv2.rectangle(picture, (left, top), (right, bottom), color, 2)
        place = (left, max(top - 4, 12))
        cv2.putText(picture, f"{name} {score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="an .onnx file of python -m public.test_scripts.export")
    parser.add_argument("picture")
    parser.add_argument("--score_threshold", type=float, default=0.4, help="lowest score that counts (0.4)")
    parser.add_argument("--output", help="where the picture with its boxes goes")
    arguments = parser.parse_args()
    try:  # by its bytes: OpenCV's own file functions end the process at a name that is no UTF-8
        picture = cv2.imdecode(np.fromfile(arguments.picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (OSError, cv2.error):
        picture = None
    if picture is None:
        sys.exit(f"error: {arguments.picture} cannot be read as a picture")
    try:
        found = Runner(arguments.network)(picture, arguments.score_threshold)
    except ValueError as error:
        sys.exit(f"error: {error}")
    boxes = found.get("boxes", [None] * len(found["names"]))
    for name, score, box in zip(found["names"], found["scores"].tolist(), boxes):
        print(f"{name} {score:.4f}" + ("" if box is None else " " + " ".join(f"{value:.2f}" for value in box.tolist())))
    if arguments.output and "boxes" in found:
        ending = os.path.splitext(arguments.output)[1] or ".png"
        cv2.imencode(ending, draw(picture, found)[..., ::-1])[1].tofile(arguments.output)


if __name__ == "__main__":
    main()
