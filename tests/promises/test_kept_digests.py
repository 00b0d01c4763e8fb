"""Tiny trainings of every family end in the bits they ended in when their digests were written down.

A rearrangement of the library, or a faster way to the same numbers, must change no bit.  Bits differ between kinds of CPU
and releases of torch, so the digests stand in `figures/kept_digests.json` under the machine that gave them; on one that is
not listed there the tests are skipped.  A change that is meant to alter bits says so in its commit and writes them anew:

    python -m tests.promises.test_kept_digests
"""

import json
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from public import training
from public.runs.experiment import load_experiment
from public.training import loop
from tests.helpers.forked_commands import run_python
from tests.helpers.places import FIGURES, REPOSITORY
from tests.helpers.tiny_layouts import write_layout

FILE = FIGURES / "kept_digests.json"
NUM_IMAGES, NUM_STEPS = 4, 3

# name -> the experiment's folder and, where it has another network than its page, the network of the classifier
RUNS = {
    "ppyoloe": ("detection_experiments/ppyoloe_s_voc", None),
    "ppyoloe_plus": ("detection_experiments/ppyoloe_plus_s_coco", None),
    "ppyoloe_aux": ("detection_experiments/ppyoloe_plus_t_coco", None),
    "own_model": ("cifar100_experiments/resnet18_mini", None),
    "efficientnet_b0": ("imagenet_experiments/efficientnet_b0", None),
} | {
    network: ("imagenet_experiments/resnet18", network)
    for network in (
        "resnet18", "darknet19", "csp_darknet_nano", "cspresnet_xs", "lcnet_035", "vovnet19_slim_dw_se", "regnety_200mf",
        "shufflenetv2_x0_5", "mobilenetv3_small", "rexnet_100", "repvgg_a0", "yolov5_n",
    )
}  # fmt: skip

PAGE = '''"""Command: a test's; the experiment's own page, small."""

import dataclasses

from tests.helpers.tiny_layouts import shrunk

from .page import config as page

config = shrunk({page})
'''
OTHER_NETWORK = "dataclasses.replace(page, classifier=dataclasses.replace(page.classifier, network={network!r}))"


def machine() -> str:
    """What bits depend on, beside the code: CPU, vector instructions in use, torch."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = ("vendor_id", "cpu family", "model", "model name")
    found = [re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE) for name in names]
    cpu = ", ".join(match[1] for match in found if match) or platform.processor() or platform.machine()
    return f"{cpu}; {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__.split('+')[0]}"


def train(name: str, folder: Path) -> str:
    """Trains the run `name` for a few steps in this process; the digests of its losses and weights."""
    experiment, network = RUNS[name]
    copy = folder / name
    shutil.copytree(
        REPOSITORY / experiment, copy, ignore=shutil.ignore_patterns("runs", "reproductions", "__pycache__")
    )
    (copy / "config.py").rename(copy / "page.py")
    (copy / "config.py").write_text(
        PAGE.replace("{page}", OTHER_NETWORK.format(network=network) if network else "page")
    )
    data_root = folder / f"data of {experiment.replace('/', ' ')}"
    if not data_root.exists():
        data_root.mkdir()
        write_layout(load_experiment(copy).config, data_root, num_images=NUM_IMAGES)
    flags = [
        "--device",
        "cpu",
        "--data_root",
        str(data_root),
        "--starting_weights",
        "none",
        "--max_steps",
        str(NUM_STEPS),
    ]
    flags += ["--limit_images", str(NUM_IMAGES), "--digest_interval", "1", "--num_pictures", "0"]
    # oneDNN without AVX512 writes beyond its memory in a channels-last 1x1 convolution of 3 channels with stride 2
    flags += ["--channels_last", "false"] if network == "repvgg_a0" else []
    sys.argv = sys.orig_argv = ["train.py", *flags]
    training.main(str(copy / "train.py"))
    (file,) = copy.glob("runs/*/digests.jsonl")
    last = json.loads(file.read_text().splitlines()[-1])
    assert last["step"] == NUM_STEPS
    return " ".join(last[part][:16] for part in ("chain", "weights", "ema") if part in last)


@pytest.mark.slow
@pytest.mark.skipif(machine() not in json.loads(FILE.read_text()), reason=f"no digests are kept of {machine()}")
def test_tiny_runs_end_in_the_digests_of_before(tmp_path):
    """One after the other in a process of their own, whose modes no other test sees."""
    file = tmp_path / "digests.json"
    done = run_python(["-m", "tests.promises.test_kept_digests", file], timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text())[machine()] == json.loads(FILE.read_text())[machine()]


def main(file: Path) -> None:
    """Trains all runs and writes their digests to `file`, beside those of other machines that it holds."""
    digests = {}
    torch.set_num_threads(1)
    loop.draw_curves = lambda *_: None  # which takes longer than the steps
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            digests[name] = train(name, Path(folder))
    kept = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(kept | {machine(): digests}, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
