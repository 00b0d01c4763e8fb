"""Makes a network narrower: writes the page of a smaller one, with widths of its own, that trains on from trained weights.

    python -m public.test_scripts.prune detection_experiments/ppyoloe_xs_bccd --macs 0.6 -o detection_experiments/mine_slim
    python -m public.test_scripts.prune runs/<time> --macs 0.5 --criterion magnitude --spared head -o PAGE

Channels that depend on each other, by residual sums, concatenation, attention, branches or a head that several levels
share, are found by following them through the network, and go together.  All widths are made narrower by the same fraction,
the largest one by which the network has at most --macs of its multiply-accumulates, as `flops --fuse` counts them.  Which
channels of the trained weights stay is decided by --criterion: fpgm (those go that others can stand in for) or magnitude.
What cannot be cut is listed with the reason.

PAGE is a new folder: config.py, the experiment's own page with `Slimmed(network=..., widths=...)` and the trained weights to
start from; and pruned.pth, the small network before any further training, which every command takes as weights of PAGE.
The page is as trained before: what learning rate and how many epochs a recovery needs is yours to change.
"""

import argparse
import re
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import nn

from public import commands
from public.checkpoint_files import load_checkpoint, save_atomic
from public.config import ClassificationConfig, freeze
from public.families.slimmed import Slimmed
from public.files import REPOSITORY
from public.inference.places import find_weights
from public.inference.trained import build_trained
from public.models.channels import Channels
from public.models.slimmed import CRITERIA, slim
from public.models.widths import Found, find_widths
from public.runs.experiment import Experiment, load_experiment
from public.runs.near_copies import card_of
from public.runs.own_page import paragraph, wrapped
from public.runs.page_folder import check_new, write_folder
from public.runs.page_text import PageText, literal
from public.runs.run_folder import newest_weights
from public.runs.starting_experiment import named_experiment, shown_place

WEIGHTS = "pruned.pth"
MODULES = {"Slimmed": "public.families.slimmed"}


def main() -> None:
    commands.call(prune, make_parser().parse_args())


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("prune", __doc__)
    commands.add_weights(parser)
    parser.add_argument("--macs", type=float, required=True, help="share of the MACs that may be left, such as 0.6")
    parser.add_argument("--criterion", choices=CRITERIA, default="fpgm", help="which channels stay (fpgm)")
    parser.add_argument("--multiple", type=int, default=8, help="of which the new widths are multiples (8)")
    parser.add_argument(
        "--spared", nargs="*", default=[], help="layers that keep their channels, by beginnings of names"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE", help="the new experiment's folder")
    return parser


def prune(arguments: argparse.Namespace) -> Found:
    """Writes the page and the small network's weights; the widths.

    Raises:
        FileExistsError: PAGE is there already.
        ValueError: the experiment's network cannot be made narrower so.
    """
    if not 0 < arguments.macs < 1 or arguments.multiple < 1:
        raise ValueError(
            f"--macs {arguments.macs} has to be between 0 and 1, --multiple {arguments.multiple} at least 1"
        )
    folder = arguments.output.resolve()
    check_new(folder)
    experiment, path = find_weights(arguments.experiment, arguments.weights)
    settings = experiment.config.used_settings
    if settings is not experiment.config.network_settings or hasattr(settings, "prepare"):
        kind = type(experiment.config.network_settings).__name__
        raise ValueError(f"{experiment.name} trains a {kind}(...); prune takes one network as it is")
    checkpoint = load_checkpoint(path)
    model = build_trained(path, checkpoint, settings).eval()
    channels = Channels(model)
    size = experiment.config.input.usual_size
    found = find_widths(
        model, channels, arguments.macs, size=size, multiple=arguments.multiple, spared=arguments.spared
    )
    small = Slimmed(network=settings, criterion=arguments.criterion, widths=tuple(found.widths.items()))
    slim(model, found.widths, criterion=arguments.criterion, channels=channels)
    write_folder(experiment.source, folder, page_of(experiment, path, small, found, arguments))
    save_atomic(_checkpoint(checkpoint, experiment, small, model), folder / WEIGHTS)
    print(report(channels, found, size))
    print(f"written: {folder / 'config.py'}, and the small network as it is now, {folder / WEIGHTS}")
    place = shlex.quote(shown_place(folder))
    print(f"to evaluate it: python -m public.test_scripts.evaluate {place} {place}/{WEIGHTS}")
    print(f"to train it on: python {place}/train.py")
    return found


def _checkpoint(dense: dict, experiment: Experiment, settings: Slimmed, model: nn.Module) -> dict[str, Any]:
    kind = "classifier" if isinstance(experiment.config, ClassificationConfig) else "detector"
    known = {name: dense[name] for name in ("num_classes", "class_names", "input") if name in dense}
    return {"model": model.state_dict(), "model_name": "Slimmed", **known, kind: freeze(settings)}


def report(channels: Channels, found: Found, size: tuple[int, int]) -> str:
    """The widths before and after, what stays and why, and the MACs."""
    longest = max(len(group.name) for group in channels.groups)
    lines = [f"{'width':<{longest}} before  after"]
    for group in channels.groups:
        count = len(group.channels)
        lines.append(f"{group.name:<{longest}} {count:>6} {found.widths.get(group.name, count):>6}")
    by_reason = defaultdict(list)
    for layer in channels.spared:
        by_reason[layer.reason].append(layer.name)
    lines += [f"not cut, {reason}: {', '.join(names)}" for reason, names in by_reason.items()]
    share = found.macs / found.dense_macs
    lines.append(
        f"{found.dense_macs / 1e9:.3f} GMACs before, {found.macs / 1e9:.3f} after: {share:.1%}, re-parameterised, one image "
        f"of {size[0]} x {size[1]} pixels"
    )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ the page


def page_of(
    experiment: Experiment, weights: Path, settings: Slimmed, found: Found, arguments: argparse.Namespace
) -> PageText:
    """The experiment's page with the narrower network, which starts from `weights`."""
    page = PageText((experiment.source / "config.py").read_text(encoding="utf-8"))
    name = "classifier" if isinstance(experiment.config, ClassificationConfig) else "detector"
    page.set(
        name,
        f"Slimmed(criterion={literal(settings.criterion)}, widths={literal(settings.widths)}, "
        f"network={page.expression(name)})",
    )
    page.set("starting_weights", literal(starting_weights(experiment, weights)))
    page.set("backbone_only", "False")
    share = found.macs / found.dense_macs
    original = card_of(experiment.source).splitlines()
    options = f"--macs {arguments.macs:g} --criterion {arguments.criterion} --multiple {arguments.multiple}"
    if arguments.spared:
        options += f" --spared {shlex.join(arguments.spared)}"
    title = re.split(r"[,:;]|\.$", original[0])[0]  # what follows is of how it was trained
    card = [*wrapped(f"{title}, narrower: {share:.1%} of the MACs."), ""]
    for word in ("Paper:", "Data:"):
        card += paragraph(original, word)
    card += wrapped(f"Widths: python -m public.test_scripts.prune {shown_place(experiment.folder)} {options}")
    card += paragraph(original, "Command:")
    page.set_card([*card, "Expected: not trained yet."])
    page.set_imports(MODULES)
    return page


def starting_weights(experiment: Experiment, path: Path) -> str:
    """What the page calls `path`: the experiment whose best weights they are, or the file."""
    if path == newest_weights(load_experiment(experiment.folder)):
        named = experiment.name if experiment.folder.is_relative_to(REPOSITORY) else str(experiment.folder)
        if named_experiment(named) == experiment.folder:
            return named
        return shown_place(experiment.folder)
    return shown_place(path)


if __name__ == "__main__":
    main()
