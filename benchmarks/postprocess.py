"""From dense boxes and scores to detections: the decoders' last step, against how it was done before and torchvision's.

    python -m benchmarks.postprocess [--anchors 8400] [--classes 80] [--rounds 15] [--short]

Two pictures, with PPYOLOE's settings (threshold 0.01, 1,000 of each class, IoU 0.7, 300 in all): one with 300 scores above
the threshold, and one of an untrained network, with all of them above it.  A third has YOLOX's settings in an evaluation:
one class a box, no limit.  Three programs take turns (A B C A B C ...) in one thread; medians of CPU time are printed:

    ours         `DenseDecoder`'s call, the check for NaN included
    former       the same as it was until 2026-11-29, `benchmarks.former_nms`, whose detections must be equal bit for bit
    torchvision  threshold, the best 30,000 by `topk`, `torchvision.ops.batched_nms`, the best 300: what one writes by hand
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torchvision.ops import batched_nms

from benchmarks import former_nms
from benchmarks.figures import figure
from public.decoders.dense import DenseDecoder, best_class_only

SIDE = 640  # of the image, in pixels
MOST_BY_HAND = 30_000  # candidates that go into batched_nms, which would take minutes for all
PEERS = ("former", "torchvision")
LEAST = {"300 above the threshold": 5, "all above the threshold": 10}  # times as fast as before
PPYOLOE = {"score_threshold": 0.01, "nms_iou": 0.7, "nms_top_k": 1000, "keep_top_k": 300}
YOLOX = {"score_threshold": 0.001, "nms_iou": 0.65, "nms_top_k": None, "keep_top_k": None}


class Given(DenseDecoder):
    """The decoder of boxes and scores that are there already."""

    def __init__(self, *, one_class_a_box: bool = False, **thresholds: Any) -> None:
        super().__init__(**thresholds)
        self.one_class_a_box = one_class_a_box

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs


def made(
    num_anchors: int, num_classes: int, num_above: int | None, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (1, A, 4) anywhere and scores (1, A, K), `num_above` of them (None: all) above `threshold`."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(1, num_anchors, 2, generator=generator) * SIDE
    halves = torch.rand(1, num_anchors, 2, generator=generator) * 60 + 4
    scores = torch.rand(1, num_anchors * num_classes, generator=generator)
    if num_above is None:
        scores = threshold + scores * (0.9 - threshold)
    else:
        chosen = torch.randperm(scores.numel(), generator=generator)[:num_above]
        high = threshold + scores[:, chosen] * (0.9 - threshold)
        scores = scores * threshold
        scores[:, chosen] = high
    return torch.cat([centres - halves, centres + halves], -1), scores.unflatten(1, (num_anchors, num_classes))


def former(decoder: Given, outputs: tuple[torch.Tensor, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """`DenseDecoder`'s call as it was."""
    boxes, scores = outputs
    if not (boxes.isfinite().all() & scores.isfinite().all()):
        raise ValueError("NaN")
    candidates = best_class_only(scores) if decoder.one_class_a_box else None
    return [
        former_nms.multiclass_nms(
            boxes[image],
            scores[image],
            score_threshold=decoder.score_threshold,
            iou_threshold=decoder.nms_iou,
            keep_top_k=decoder.keep_top_k,
            top_k_per_class=decoder.nms_top_k,
            candidate_scores=None if candidates is None else candidates[image],
        )
        for image in range(len(boxes))
    ]


def by_hand(decoder: Given, outputs: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """What one writes with torchvision; its ties have another order, and it knows no limit of a class."""
    found = []
    for boxes, scores in zip(*outputs):
        chosen_by = best_class_only(scores[None])[0] if decoder.one_class_a_box else scores
        anchors, labels = (chosen_by > decoder.score_threshold).nonzero(as_tuple=True)
        values = scores[anchors, labels]
        if len(values) > MOST_BY_HAND:
            values, best = values.topk(MOST_BY_HAND)
            anchors, labels = anchors[best], labels[best]
        found.append(batched_nms(boxes[anchors], values, labels, decoder.nms_iou)[: decoder.keep_top_k])
    return found


def seconds_of(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median of the CPU time of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            start = time.thread_time()
            program()
            if number > 0:  # the first round is for warming up
                seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(num_anchors: int, num_classes: int, rounds: int) -> dict[str, dict[str, float]]:
    """Picture -> program -> seconds; AssertionError where `former` finds something else."""
    pictures = {
        "300 above the threshold": (300, Given(**PPYOLOE)),
        "all above the threshold": (None, Given(**PPYOLOE)),
        "2000 above it, YOLOX's way": (2000, Given(**YOLOX, one_class_a_box=True)),
    }
    seconds = {}
    for name, (num_above, decoder) in pictures.items():
        outputs = made(num_anchors, num_classes, num_above, decoder.score_threshold)
        for ours, theirs in zip(decoder(outputs), former(decoder, outputs)):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), f"{name}: other detections than before"
        programs = {
            "ours": lambda decoder=decoder, outputs=outputs: decoder(outputs),
            "former": lambda decoder=decoder, outputs=outputs: former(decoder, outputs),
            "torchvision": lambda decoder=decoder, outputs=outputs: by_hand(decoder, outputs),
        }
        seconds[name] = seconds_of(programs, rounds)
    return seconds


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=8400)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--short", action="store_true", help="three rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if options.short else options.rounds
    print(f"{options.anchors} x {options.classes} scores, one thread, medians of {rounds} rounds in turns")
    for picture, seconds in measure(options.anchors, options.classes, rounds).items():
        parts = [f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items()]
        parts += [f"{peer} / ours {seconds[peer] / seconds['ours']:.2f}" for peer in PEERS]
        print(f"{picture}: {', '.join(parts)}")
        for peer in PEERS:
            least = LEAST.get(picture) if peer == "former" else None
            figure(
                f"detections of {picture.replace('it,', 'the threshold,')}, faster",
                seconds[peer] / seconds["ours"],
                "times",
                peer=peer,
                least=least,
            )


if __name__ == "__main__":
    main()
