"""What the tests of the Darknets, CSPDarknet and YOLOv5's backbone share: oracles, their reduced figures, and counts.

python -m tests.helpers.dark_backbones ../shared/oracles       # writes the reduced figures in tests/figures/backbones
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.figures.fill_rule import fill, oracle_input
from tests.helpers import places

FIGURES = places.FIGURES / "backbones"
YOLOX_IMAGES = (2, 3, 160, 224)
YOLOX_PROBES = ("stem", "dark2", "dark3", "dark4", "dark5")
NUM_REDUCED_LOGITS = 100


# ---------------------------------------------------------------------------------------------- oracles


def oracle_arrays(oracle: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The original's state dict, filled by name, BatchNorm's statistics from the oracle's own file.

    Arrays whose names do not begin with `prefix` are there without numbers.
    """
    entries = [(entry["name"], entry["shape"]) for entry in json.loads((oracle / "state.json").read_text())]
    state = {name: torch.empty(shape, device="meta") for name, shape in entries}
    state |= filled([(name, shape) for name, shape in entries if name.startswith(prefix)])
    for name, value in np.load(oracle / "calib.npz").items():
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def filled(entries: list[tuple[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The arrays (name, shape) by the rule of the oracles."""
    state = {}
    for name, shape in entries:
        counts = name.endswith("num_batches_tracked")
        state[name] = torch.tensor(0) if counts else torch.from_numpy(np.asarray(fill(name, tuple(shape))))
    return state


def images_of(tag: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(oracle_input(tag, shape)).double()


def check_map(ours: torch.Tensor, figures: dict, *, tolerance: float) -> None:
    """A map's mean, deviation, largest value and first 64 values, within `tolerance` of the largest value."""
    stats = [ours.mean().item(), ours.std(correction=0).item(), ours.abs().max().item()]
    scale = stats[2]
    assert stats[1] > 0.01 * scale  # a constant map would tell nothing
    np.testing.assert_allclose(stats, figures["stats"], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(ours.flatten()[:64].numpy(), figures["first"], rtol=0, atol=tolerance * scale)


def yolox_figures(oracle: Path, kind: str) -> dict[str, dict]:
    """The figures of YOLOX's five probes inside the backbone; `kind`: "cal" or "fill"."""
    outputs = np.load(oracle / "out.npz")
    return {
        probe: {part: outputs[f"{kind}/backbone.{probe}/{part}"].tolist() for part in ("stats", "first")}
        for probe in YOLOX_PROBES
    }


# ---------------------------------------------------------------------------------------------- counts


def num_conv(in_channels: int, out_channels: int, kernel_size: int) -> int:
    """Parameters of a convolution with BatchNorm."""
    return in_channels * out_channels * kernel_size**2 + 2 * out_channels


def num_conv_3x3(in_channels: int, out_channels: int, use_depthwise: bool = False) -> int:
    """Of a 3x3 convolution, or of a depthwise and a 1x1 one."""
    if use_depthwise:
        return num_conv(1, in_channels, 3) + num_conv(in_channels, out_channels, 1)
    return num_conv(in_channels, out_channels, 3)


def num_neck(width: float, depth: float, use_depthwise: bool = False) -> int:
    """Of the neck that YOLOX took over from YOLOv5: a path down and a path up, with four cross-stage partial layers."""
    low, middle, high = (int(channels * width) for channels in (256, 512, 1024))
    num_blocks = max(round(3 * depth), 1)

    def csp(in_channels: int, out_channels: int) -> int:
        half = out_channels // 2
        block = num_conv(half, half, 1) + num_conv_3x3(half, half, use_depthwise)
        return 2 * num_conv(in_channels, half, 1) + num_conv(2 * half, out_channels, 1) + num_blocks * block

    down = num_conv(high, middle, 1) + csp(2 * middle, middle) + num_conv(middle, low, 1) + csp(2 * low, low)
    up = num_conv_3x3(low, low, use_depthwise) + csp(2 * low, middle)
    up += num_conv_3x3(middle, middle, use_depthwise) + csp(2 * middle, high)
    return down + up


# ---------------------------------------------------------------------------------------------- reduced figures


def load_figures(name: str) -> dict:
    """The reduced figures of the oracle called `name`."""
    return json.loads((FIGURES / f"{name}.json").read_text())


def main(oracles: Path) -> None:
    """Plain filled statistics, so that the oracle's file of statistics is not needed."""
    folder = oracles / "backbones/timm_darknet53"
    limit = json.loads((oracles / "tolerances.json").read_text())["backbones/timm_darknet53"]["fill"]["max_abs"]
    logits = np.load(folder / "out.npz")["fill/logits"][0, :NUM_REDUCED_LOGITS].tolist()
    _write("timm_darknet53", {"limit": limit, "entries": _entries(folder, ""), "logits": _short(logits)})
    folder = oracles / "yolox/yolox_nano"
    figures = yolox_figures(folder, "fill")
    maps = {probe: {part: _short(values) for part, values in parts.items()} for probe, parts in figures.items()}
    _write("yolox_nano", {"entries": _entries(folder, "backbone.backbone."), "maps": maps})


def _entries(folder: Path, prefix: str) -> list[list]:
    state = json.loads((folder / "state.json").read_text())
    return [[entry["name"], entry["shape"]] for entry in state if entry["name"].startswith(prefix)]


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.8g}") for value in values]


def _write(name: str, figures: dict) -> None:
    text = json.dumps(figures, separators=(",", ":")).replace('],["', '],\n["')
    (FIGURES / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
