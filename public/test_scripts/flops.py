"""Counts the parameters and the operations of a network, module by module.

    python -m public.test_scripts.flops detection_experiments/ppyoloe_s_voc
    python -m public.test_scripts.flops ppyoloe_s --shape 640 640 --depth 2 --fuse
    python -m public.test_scripts.flops resnet50
    python -m public.test_scripts.flops runs/<time> --weights runs/<time>/best.pth --fuse

One multiply-accumulate (MAC) is two floating-point operations (FLOPs): GFLOPs = 2 x GMACs.  Papers are not agreed on
which of the two they print under the name FLOPs.  Counted, by torch.utils.flop_counter, are convolutions and matrix
products in eval mode, for one image; both numbers are proportional to the images of a batch.  Normalisation, activations,
sums, pooling, resizing, decoding and NMS are not counted.  thop counts the layers of normalisation and pooling as well,
and misses what is no layer.

Of weights (--weights) in which a pruning has left zeros, the effective MACs are counted as well: those by weights that are
not zero.  Dense kernels compute the others all the same.

Nothing is computed: the network runs on torch's "meta" device, which knows shapes only, so the largest one takes a
second.
"""

import argparse
import json
from pathlib import Path

from torch import nn

from public import commands
from public.checkpoint_files import load_checkpoint
from public.files import write_text
from public.inference.places import Network, find_network
from public.inference.trained import build_trained
from public.models.fuse import fuse
from public.models.operations import Count, count_operations, example_input
from public.models.pruned import sparsity
from public.training.freezing import freeze_parameters


def main() -> None:
    parser = commands.make_parser("flops", __doc__, experiment=None)
    parser.add_argument("network", help="an experiment's folder, a run, or a published name such as ppyoloe_s")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input in pixels; without it, the experiment's, or a published classifier's",
    )
    parser.add_argument("--depth", type=int, default=1, help="levels of modules in the table; 0: the total only (1)")
    parser.add_argument("--fuse", action="store_true", help="after re-parameterisation, as for inference")
    parser.add_argument("--weights", type=Path, help="a checkpoint of it, whose zeros are counted")
    parser.add_argument("--json", type=Path, help="write the numbers of every module here as well")
    commands.call(flops, parser.parse_args())


def flops(arguments: argparse.Namespace) -> Count:
    """Prints the table of a network; returns what was counted."""
    if arguments.depth < 0:
        raise ValueError(f"--depth is {arguments.depth}; it must be at least 0")
    network = find_network(arguments.network)
    height, width = network.size(arguments.shape)
    model = build(network, is_fused=arguments.fuse, weights=arguments.weights)
    zeros = sparsity(model) if arguments.weights else {}
    count = count_operations(model, example_input(height, width))
    print(f"{network.name}{', re-parameterised' if arguments.fuse else ''}, one image of {height} x {width} pixels")
    print(table(count, arguments.depth))
    frozen = count.parameters - count.trainable
    print(
        f"parameters: {count.parameters:,}"
        + ("" if arguments.fuse else f" ({count.trainable:,} trainable, {frozen:,} frozen)")
    )
    print(f"{count.macs / 1e9:.3f} GMACs = {2 * count.macs / 1e9:.3f} GFLOPs: convolutions and matrix products")
    if arguments.weights:
        print(_effective(count, zeros))
    if count.uncounted:
        print(f"no operation was counted for, or these play no part in inference: {', '.join(_outermost(count))}")
    if arguments.json:
        _write_json(arguments.json, network, (height, width), arguments.fuse, count)
        print(f"written to {arguments.json.resolve()}")
    return count


def build(network: Network, *, is_fused: bool, weights: Path | None = None) -> nn.Module:
    """The network in eval mode; what the experiment freezes is frozen.  Of a re-parameterised one nothing is trained.

    Raises:
        ValueError: the `weights` do not fit it.
    """
    if weights is None:
        model = network.settings.build_model()
    else:
        model = build_trained(weights, load_checkpoint(weights), network.settings)
    if network.experiment is not None:
        freeze_parameters(model, network.experiment.config.freeze)
    return fuse(model).requires_grad_(False) if is_fused else model.eval()


def _effective(count: Count, zeros: dict[str, float]) -> str:
    """A line on the MACs by weights that are not zero; `zeros`: the share of zeros of each convolution."""
    saved = sum(row.macs * zeros.get(row.name, 0.0) for row in count.rows)
    left = count.macs - saved
    return f"effective: {left / 1e9:.3f} GMACs by weights that are not zero, {left / count.macs:.1%} of the dense ones"


def _outermost(count: Count) -> list[str]:
    """What is uncounted, with one name for a whole part of the network, such as `aux_head`, of which nothing is counted."""
    idle = {row.name for row in count.rows if row.macs == 0}
    found = {}
    for name in count.uncounted:
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        found[next(part for part in above if part in idle)] = None
    return list(found)


def table(count: Count, depth: int) -> str:
    """The modules down to `depth` levels, with their share of the MACs; of the whole network the last line."""
    shown = [row for row in count.rows[1:] if row.name.count(".") < depth]
    width = max([len(row.name) for row in shown] + [len("total")])
    lines = [f"{'module':<{width}} {'parameters':>13} {'GMACs':>10} {'GFLOPs':>10} {'share':>8}"]
    for row in [*shown, count.rows[0]]:
        share = row.macs / count.macs if count.macs else 0.0
        lines.append(
            f"{row.name or 'total':<{width}} {row.parameters:>13,} {row.macs / 1e9:>10.3f} {2 * row.macs / 1e9:>10.3f} "
            f"{share:>8.1%}"
        )
    return "\n".join(lines)


def _write_json(path: Path, network: Network, size: tuple[int, int], is_fused: bool, count: Count) -> None:
    value = {
        "network": network.name,
        "height": size[0],
        "width": size[1],
        "fused": is_fused,
        "parameters": count.parameters,
        "trainable": count.trainable,
        "macs": count.macs,
        "flops": 2 * count.macs,
        "modules": [row._asdict() for row in count.rows],
        "uncounted": count.uncounted,
    }
    write_text(path, json.dumps(value, indent=1))


if __name__ == "__main__":
    main()
