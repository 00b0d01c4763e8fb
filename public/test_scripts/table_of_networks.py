"""Writes the table of the backbones: parameters and multiply-accumulates, beside what has been published of them.

    python -m public.test_scripts.table_of_networks --output docs/backbones.md

Counted is the classifier with the published number of classes, at the size of images it was made for: 1000 classes, or
100 for the names with _cifar.  GMACs are those of `public.test_scripts.flops`: convolutions and matrix products of one
image.  Nothing is computed, so it takes about a minute.  Where no published number of parameters is known here, the table
says "measured".
"""

import argparse
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torchvision.models import get_model_weights

from public import commands
from public.files import write_text
from public.models import create_model
from public.models.backbones import NETWORKS, family_of, image_size, published_classes
from public.models.operations import count_operations, example_input

# our name -> torchvision's, of the networks that are the same there; its package documents their parameters and MACs
TORCHVISION = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"efficientnet_b{number}": f"efficientnet_b{number}" for number in range(4)},
    **{f"mobilenetv3_{size}": f"mobilenet_v3_{size}" for size in ("small", "large")},
    **{f"regnety_{size}": f"regnet_y_{size}" for size in ("400mf", "1_6gf", "3_2gf")},
    **{f"shufflenetv2_{width}": f"shufflenet_v2_{width}" for width in ("x0_5", "x1_0", "x1_5", "x2_0")},
}
# millions of parameters, as timm prints them: results/benchmark-infer-amp-nhwc-{pt112-cu113,pt240-cu124}-rtx3090.csv of its
# repository.  Its GMACs, of two digits, count more than convolutions and matrix products, so they are left out.
TIMM = {
    **{"darknet53": 41.61, "lcnet_035": 1.64, "lcnet_075": 2.36, "lcnet_100": 2.95, "lcnet_150": 4.50},
    **{"regnety_200mf": 3.16, "regnety_600mf": 6.06, "regnety_800mf": 6.26, "regnety_4_0gf": 20.65},
    **{"regnety_6_4gf": 30.58, "repvgg_a0": 9.11, "repvgg_a1": 14.09, "repvgg_a2": 28.21, "repvgg_b0": 15.82},
    **{"repvgg_b1": 57.42, "repvgg_b2": 89.02, "repvgg_b3": 123.09},
    **{"rexnet_100": 4.80, "rexnet_130": 7.56, "rexnet_150": 9.73, "rexnet_200": 16.37},
    **{"vovnet19_slim_dw_se": 1.90, "vovnet19_slim_se": 3.17, "vovnet19_dw_se": 6.54, "vovnet39_se": 24.57},
    **{"vovnet57_se": 38.61, "vovnet99_se": 63.20},
}
PADDLECLAS = {"lcnet_200": 6.5, "lcnet_250": 9.0}  # the same, by docs/en/models/PP-LCNet_en.md of PaddleClas
SIZES_OF_TORCHVISION = {"efficientnet_b2": 288}  # where its MACs are not those of the published size


class Row(NamedTuple):
    """One line of the table.

    Fields:
        parameters, macs: counted, of one image of `size` x `size` pixels.
        published_parameters, published_macs: as printed, or None; `source` says by whom.
    """

    name: str
    size: int
    parameters: int
    macs: int
    published_parameters: str | None
    published_macs: str | None
    source: str


def main() -> None:
    parser = commands.make_parser("table_of_networks", __doc__, experiment=None)
    parser.add_argument("names", nargs="*", help="the networks (all)")
    commands.add_output(parser, "the file to write, in Markdown; without it the table is printed")
    commands.call(write_table, parser.parse_args())


def write_table(arguments: argparse.Namespace) -> None:
    for name in arguments.names:
        family_of(name)
    text = markdown([row(name) for name in arguments.names or NETWORKS])
    if arguments.output is None:
        print(text, end="")
        return
    write_text(arguments.output, text)
    print(f"written to {arguments.output.resolve()}")


def row(name: str) -> Row:
    """What there is to say about the network called `name`."""
    size = image_size(name)
    with torch.device("meta"):
        model = create_model(name).eval()
    count = count_operations(model, example_input(size, size))
    return Row(name, size, count.parameters, count.macs, *published(name))


def published(name: str) -> tuple[str | None, str | None, str]:
    """(millions of parameters, GMACs, source) as printed elsewhere; None where they are not."""
    if name in TORCHVISION:
        meta = get_model_weights(TORCHVISION[name]).IMAGENET1K_V1.meta
        macs = None if name in SIZES_OF_TORCHVISION else f"{meta['_ops']:.3f}"
        return f"{meta['num_params'] / 1e6:.6f}", macs, "torchvision"
    for table, digits, source in ((TIMM, 2, "timm"), (PADDLECLAS, 1, "PaddleClas")):
        if name in table:
            return f"{table[name]:.{digits}f}", None, source
    return None, None, "measured"


def markdown(rows: Iterable[Row]) -> str:
    """The table, with a heading and what its columns mean."""
    lines = [
        "# Backbones",
        "",
        "Written by `python -m public.test_scripts.table_of_networks --output docs/backbones.md`; a test counts again.",
        "Parameters in millions and GMACs (multiply-accumulates of convolutions and matrix products, one image) of the",
        'classifier with its published number of classes.  "measured": no published number of parameters is known here.',
        "",
        "| network | classes | size | parameters M | published | GMACs | published | source |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for entry in rows:
        lines.append(
            f"| {entry.name} | {published_classes(entry.name)} | {entry.size} | {entry.parameters / 1e6:.6f} "
            f"| {entry.published_parameters or '-'} | {entry.macs / 1e9:.3f} | {entry.published_macs or '-'} "
            f"| {entry.source} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
