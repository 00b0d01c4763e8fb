"""What the tests of the backbones share: their oracles, second implementations, counts.  Promises of all: test_backbones.

python -m tests.helpers.backbone_checks ../shared/oracles       # writes the reduced figures in tests/figures/backbones
"""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from tests.figures.fill_rule import fill, oracle_input
from tests.helpers import places

FIGURES = places.FIGURES / "backbones"


# ---------------------------------------------------------------------------------------------- oracles


def oracle_state(shared: Path, name: str) -> dict[str, torch.Tensor]:
    """The original's state dict: filled by name, BatchNorm's statistics from the oracle's own file."""
    folder = shared / "oracles/backbones" / name
    statistics = np.load(folder / "calib.npz")
    state = {}
    for entry in json.loads((folder / "state.json").read_text()):
        array, shape = entry["name"], tuple(entry["shape"])
        if array.endswith("num_batches_tracked"):
            state[array] = torch.tensor(0)
        elif array in statistics:
            state[array] = torch.from_numpy(statistics[array].astype(np.float32))
        else:
            state[array] = torch.from_numpy(fill(array, shape))
    return state


def logits_and_maps(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a classifier gives, and what its backbone has given it: one forward pass, no gradient."""
    kept: list[list[torch.Tensor]] = []
    keep = model.backbone.register_forward_hook(lambda module, inputs, outputs: kept.append(outputs))
    with torch.no_grad():
        logits = model(images)
    keep.remove()
    (maps,) = kept
    return logits, maps


def check_oracle(shared: Path, oracle: str, model: nn.Module, maps: dict[str, int]) -> None:
    """The logits, and the maps (theirs -> the number of our stage), of the original in float64."""
    figures = np.load(shared / "oracles/backbones" / oracle / "out.npz")
    limit = json.loads((shared / "oracles/tolerances.json").read_text())[f"backbones/{oracle}"]["cal"]["max_abs"]
    images = torch.from_numpy(oracle_input(oracle, (2, 3, 224, 224))).double()
    model = model.double().eval()
    logits, outputs = logits_and_maps(model, images)
    np.testing.assert_allclose(logits.numpy(), figures["cal/logits"], rtol=0, atol=3 * limit)
    for theirs, stage in maps.items():
        expected = {kind: figures[f"cal/stage/{theirs}/{kind}"] for kind in ("shape", "chmean", "first")}
        assert tuple(outputs[stage].shape) == tuple(expected["shape"])
        scale = outputs[stage].abs().max().item()
        for ours, kind in ((outputs[stage].mean((0, 2, 3)), "chmean"), (outputs[stage].flatten()[:64], "first")):
            np.testing.assert_allclose(ours.numpy(), expected[kind], rtol=0, atol=1e-5 * scale)


# ---------------------------------------------------------------------------------------------- torchvision


def scatter_batch_norms(model: nn.Module) -> None:
    """Statistics and factors away from 0 and 1, so that no two BatchNorms can be taken for each other."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.6, 1.4),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.6, 1.4),
            ):
                tensor.data.uniform_(low, high, generator=generator)


def check_second_implementation(theirs: nn.Module, model: nn.Module, rename, name: str, maps: dict[str, int]) -> None:
    """`theirs`, renamed, gives the same logits and maps (module -> the number of our stage) in float64."""
    torch.manual_seed(0)
    scatter_batch_norms(theirs)
    model.load_state_dict(rename(theirs.state_dict(), name), strict=True)
    theirs, model = theirs.double().eval(), model.double().eval()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen = {}
    for module_name in maps:
        theirs.get_submodule(module_name).register_forward_hook(
            lambda module, inputs, output, key=module_name: seen.__setitem__(key, output)
        )
    with torch.no_grad():
        expected = theirs(images)
    logits, outputs = logits_and_maps(model, images)
    assert logits.std() > 1e-3  # constant logits could not tell two networks apart
    assert_close(logits, expected)
    for module_name, stage in maps.items():
        assert_close(outputs[stage], seen[module_name])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-9 of the largest value, in float64."""
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max().clamp(min=1)


# ---------------------------------------------------------------------------------------------- counting


def num_parameters(model: nn.Module) -> int:
    """Without statistics and counters of BatchNorm."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_on_meta(family: ModuleType, name: str, **keywords) -> nn.Module:
    """The network without any numbers in it, for counting."""
    with torch.device("meta"):
        return family.build(name, **keywords)


# ---------------------------------------------------------------------------------------------- reduced figures


def load_figures(name: str) -> dict:
    """The reduced figures of the oracle called `name`."""
    return json.loads((FIGURES / f"{name}.json").read_text())


def filled(entries: list[list], gain: float = 1.0) -> dict[str, torch.Tensor]:
    """The arrays [name, shape] by the rule of the oracles, the one-dimensional weights times `gain`."""
    state = {}
    for name, shape in entries:
        value = np.asarray(fill(name, tuple(shape)))
        is_gain = len(shape) == 1 and name.endswith(".weight")
        state[name] = torch.from_numpy(value * np.float32(gain if is_gain else 1))
    return state


def main(oracles: Path) -> None:
    FIGURES.mkdir(exist_ok=True)
    folder = oracles / "paddle/picodet_s"
    state, outputs = json.loads((folder / "state.json").read_text()), np.load(folder / "forward_gain.npz")
    entries = [[entry["name"], entry["shape"]] for entry in state["entries"] if entry["name"].startswith("backbone.")]
    maps = [
        {kind: outputs[f"backbone{level}/{kind}"].tolist() for kind in ("shape", "mean", "std", "first64")}
        for level in range(3)
    ]
    _write("picodet_s", {"gain": state["variants"]["forward_gain"]["gain"], "entries": entries, "maps": maps})

    folder = oracles / "backbones/timm_efficientnet_b1"
    state, outputs = json.loads((folder / "state.json").read_text()), np.load(folder / "out.npz")
    limit = json.loads((oracles / "tolerances.json").read_text())["backbones/timm_efficientnet_b1"]["fill"]["max_abs"]
    entries = [[entry["name"], entry["shape"]] for entry in state if "num_batches" not in entry["name"]]
    logits = [[float(f"{value:.7g}") for value in row[:100]] for row in outputs["fill/logits"].tolist()]
    _write("timm_efficientnet_b1", {"entries": entries, "limit": limit, "logits": logits})


def _write(name: str, figures: dict) -> None:
    text = json.dumps(figures, separators=(",", ":")).replace('],["', '],\n["')
    (FIGURES / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
