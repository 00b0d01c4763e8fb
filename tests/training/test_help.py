"""`train.py --help` is made without torch, and says what it says with torch."""

import os
import subprocess
import sys

import pytest

from tests.helpers.places import REPOSITORY

# one page of each family of settings, and one with code of its own
PAGES = (
    "detection_experiments/ppyoloe_xs_shapes_distilled",
    "detection_experiments/yolox_s_coco",
    "detection_experiments/picodet_s_416_npu_coco",
    "detection_experiments/fcos_shapes",
    "cifar100_experiments/resnet18_mini",
)
SAYS_WHAT_IT_IMPORTED = """
import sys
from public.training import main
sys.argv = ["train.py", "--help"]
try:
    main("train.py")
finally:
    print("torch._C" in sys.modules, file=sys.stderr)
"""


def typed(folder):
    """What the help prints, and whether torch was imported for it."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"}
    command = [sys.executable, "-c", SAYS_WHAT_IT_IMPORTED]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()[-1] == "True"


@pytest.mark.parametrize("page", PAGES)
def test_the_help_needs_no_torch(page):
    text, has_torch = typed(REPOSITORY / page)
    assert not has_torch
    assert "--batch_size" in text
    assert "(no result depends on it)" in text


def test_a_page_that_computes_with_torch_gets_it_and_says_the_same(tmp_path):
    page = REPOSITORY / "cifar100_experiments/resnet18_mini"
    for path in page.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    with open(tmp_path / "model.py", "a") as file:
        file.write("\nimport torch\n\nassert torch.arange(3).sum().item() == 3\n")
    assert typed(tmp_path) == (typed(page)[0], True)
