"""A crowded image costs little memory: each loss and its gradients with 1,000 objects, against those with one object.

A case is a process of its own, whose highest memory the system counts.  It is forked, so that it counts from what is held at
its start, not from the higher peak that the imports of a new Python have left, below which 50 MB would not be seen.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from public.losses import create_loss
from public.models.detectors.fcos import FCOSOutputs
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.models.detectors.ppyoloe_aux import PPYOLOEAuxOutputs
from public.models.detectors.retinanet import RetinaNetOutputs
from public.models.detectors.yolof import YOLOFOutputs
from public.models.detectors.yolox import YOLOXOutputs
from public.protocols import Progress
from tests.helpers.processes import run_processes

STATUS = Path("/proc/self/status")
M_MMAP_THRESHOLD = -3  # of malloc.h


def raw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(1, *shape)).requires_grad_()


def ppyoloe() -> PPYOLOEOutputs:
    return PPYOLOEOutputs(raw(12096, 80), raw(12096, 68), ((24, 24), (48, 48), (96, 96)))


def ppyoloe_with_two_heads() -> PPYOLOEAuxOutputs:
    return PPYOLOEAuxOutputs(*ppyoloe(), ppyoloe())


def yolox() -> YOLOXOutputs:
    return YOLOXOutputs(raw(12096, 80), raw(12096, 1), raw(12096, 4), ((96, 96), (48, 48), (24, 24)))


def retinanet() -> RetinaNetOutputs:
    sizes = ((48, 48), (24, 24), (12, 12), (6, 6), (3, 3))
    return RetinaNetOutputs(raw(27621, 3), raw(27621, 4), sizes, (384, 384))


def fcos() -> FCOSOutputs:
    sizes = ((96, 96), (48, 48), (24, 24), (12, 12), (6, 6))
    return FCOSOutputs(raw(12276, 80), raw(12276, 4), raw(12276), sizes, (768, 768))


def yolof() -> YOLOFOutputs:
    return YOLOFOutputs(raw(5250, 80), raw(5250, 4, scale=0.1), ((25, 42),), (800, 1344))


class Case(NamedTuple):
    name: str  # of the published network
    num_classes: int
    epoch: int  # of 300
    outputs: Callable[[], Any]
    limit: float  # bytes


CASES = {
    # 12,096 points, 80 classes: a G x A x 4 cube alone would take 0.2 GB
    "atss": Case("ppyoloe_s", 80, 0, ppyoloe, 1.5e9),
    "task_aligned": Case("ppyoloe_s", 80, 200, ppyoloe, 1.5e9),
    "task_aligned near the centre, two heads": Case("ppyoloe_plus_t", 80, 200, ppyoloe_with_two_heads, 1.5e9),
    # 12,096 points, 80 classes: a G x A x K cube alone would take 3.9 GB
    "sim_ota": Case("yolox_s", 80, 299, yolox, 1.5e9),
    # 27,621 anchors: one matrix of all pairs takes 0.11 GB, and IoU a dozen of them
    "max_iou": Case("retinanet", 3, 0, retinanet, 0.35e9),
    # 12,276 points: a few matrices A x G, of 49 MB each in float32
    "size_ranges": Case("fcos", 80, 0, fcos, 0.4e9),
    # 5,250 anchors, 80 classes: a few matrices A x G, of 21 MB each
    "uniform": Case("yolof", 80, 0, yolof, 0.4e9),
}


def bytes_for_a_thousand_objects(id: str) -> int:
    """By how much the highest memory of this process rises from one object to 1,000."""
    give_back_what_is_freed()
    case = CASES[id]
    torch.manual_seed(0)
    loss, outputs = create_loss(case.name, num_classes=case.num_classes), case.outputs()

    def learn(num_objects: int) -> None:
        corners = torch.rand(num_objects, 2) * 600
        boxes = torch.cat([corners, corners + 4 + torch.rand(num_objects, 2) * 160], dim=1)
        targets = [{"boxes": boxes, "labels": torch.randint(0, case.num_classes, (num_objects,))}]
        sum(loss(outputs, targets, Progress(case.epoch, case.epoch, 0, 300, 1)).values()).backward()

    learn(1)
    before = highest_memory()
    learn(1000)
    return highest_memory() - before


def give_back_what_is_freed() -> None:
    """Tells glibc to map every block of 1 MiB or more by itself, so that the system has it back when it is freed.

    By itself glibc raises this limit, up to 32 MiB, with what a process has freed before, and keeps blocks below it: so
    matrices of bools counted or not by what the process, or the one it was forked from, had done before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        assert mallopt(M_MMAP_THRESHOLD, 2**20) == 1


def highest_memory() -> int:
    """Bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="the peak of the memory is read from /proc")
@pytest.mark.parametrize("id", CASES)
def test_a_thousand_objects_need_little_memory(id):
    (grown,) = run_processes(bytes_for_a_thousand_objects, 1, id)
    assert 0 < grown < CASES[id].limit
