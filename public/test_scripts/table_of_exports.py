"""Writes every family to every format and lists how far each file is from its weights, or why there is none.

    python -m public.test_scripts.table_of_exports --output docs/export.md

The table takes the place of the one in the page, between its two marks.  Networks are small and have random weights whose
outputs vary (`public.export.lively`), at 128 x 128 pixels; a classifier's at 64 x 64.  A cell is the largest difference of
boxes in pixels and of scores on drawn pictures and noise, by the rule of `public.export.parity`; of detections also how many
had no partner.  All of it takes ten minutes on a core that has nothing else to do.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from public import commands, random_streams
from public.datasets.shapes import draw_picture
from public.export.formats import FORMATS
from public.export.lively import make_lively
from public.export.parity import Parity
from public.export.writing import Request, write
from public.families import published
from public.files import REPOSITORY, write_text
from public.input import ClassificationInput, InputSpec
from public.models import create_model
from public.runs.experiment import load_experiment

BEGIN, END = "<!-- table_of_exports -->", "<!-- end of table_of_exports -->"
SPEC = InputSpec(
    size=(128, 128),
    resize="letterbox",
    interpolation="linear",
    padding=114,
    color_order="bgr",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
CROP = ClassificationInput(
    size=(64, 64),
    shorter_side=72,
    interpolation="linear",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
COLUMNS = tuple(name for name, form in FORMATS.items() if form.python is None)  # the others take minutes a network
NUM_PICTURES, NUM_CLASSES = 4, 10
PAGES = {  # row: the page, or the published name, whose settings it has
    "RetinaNet": "retinanet_shapes",
    "FCOS": "fcos_shapes",
    "CenterNet": "centernet_shapes",
    "CenterNet, deformable": "centernet_shapes",
    "YOLOF": "yolof_shapes",
    "YOLOX": "yolox_nano_shapes",
    "PPYOLOE": "ppyoloe_xs_shapes",
    "PPYOLOE+": "ppyoloe_plus_s",
    "PicoDet": "picodet_xs_shapes",
    "PicoDet of 2021": "picodet_s_416_esnet",
}
CLASSIFIERS = (
    "resnet18", "darknet19", "csp_darknet_nano", "cspresnet_xs", "lcnet_035", "vovnet19_slim_dw_se", "regnety_200mf",
    "shufflenetv2_x0_5", "mobilenetv3_small", "rexnet_100", "repvgg_a0", "yolov5_n", "efficientnet_b0",
)  # fmt: skip


def main() -> None:
    parser = commands.make_parser("table_of_exports", __doc__, experiment=None)
    parser.add_argument("names", nargs="*", help="rows: families, or classifiers' names (all)")
    parser.add_argument("--format", nargs="+", default=list(COLUMNS), choices=tuple(FORMATS), help="columns")
    parser.add_argument(
        "--outputs", nargs="+", default=["boxes", "detections"], help="rows of a family (boxes detections)"
    )
    commands.add_output(parser, "the page whose table is replaced; without it the table is printed")
    commands.call(write_table, parser.parse_args())


def write_table(arguments: argparse.Namespace) -> str:
    """Prints the table, or puts it into the page; returns it.

    Raises:
        ValueError: there is no such row, or the page has no marks.
    """
    unknown = set(arguments.names) - {*PAGES, *CLASSIFIERS}
    if unknown:
        raise ValueError(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join((*PAGES, *CLASSIFIERS))}")
    formats = arguments.format
    lines = [f"| network | outputs | {' | '.join(formats)} |", "| --- " * (2 + len(formats)) + "|"]
    reasons: dict[str, int] = {}
    for name, outputs, model, decoder in _rows(arguments.names, arguments.outputs):
        cells = [_cell(form, outputs, model, decoder, reasons) for form in formats]
        lines.append(f"| {name} | {outputs} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    text = "\n".join([*lines, "", *notes])
    if arguments.output is None:
        print(text)
        return text
    page = arguments.output.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise ValueError(f"{arguments.output} has no place for the table: {BEGIN} and {END}")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    write_text(arguments.output, f"{head}{BEGIN}\n{text}\n{END}{tail}")
    return text


def _rows(names: list[str], outputs: list[str]) -> Iterator[tuple[str, str, nn.Module, Any]]:
    pictures = _pictures()
    for name in (name for name in (*PAGES, *CLASSIFIERS) if not names or name in names):
        random_streams.seed_torch(0, "model")
        if name in CLASSIFIERS:
            yield name, "raw", make_lively(create_model(name, num_classes=NUM_CLASSES), CROP, pictures), None
            continue
        settings = _settings(name)
        model, decoder = make_lively(settings.build_model(), SPEC, pictures), settings.build_decoder()
        yield from ((name, one, model, decoder) for one in outputs)


def _settings(name: str) -> Any:
    page = REPOSITORY / "detection_experiments" / PAGES[name]
    settings = load_experiment(page).config.network_settings if page.is_dir() else published(PAGES[name])
    settings = replace(settings, num_classes=NUM_CLASSES)
    if name.startswith("CenterNet"):
        return replace(settings, deformable="gather" if name.endswith("deformable") else "none")
    return settings


def _pictures() -> list:
    return [draw_picture(random_streams.stream(0, f"table {n}"), 160).image for n in range(NUM_PICTURES)]


def _cell(form: str, outputs: str, model: nn.Module, decoder: Any, reasons: dict[str, int]) -> str:
    """How the file came out, or the number of the reason why there is none."""
    request = Request(format=form, outputs=outputs, input_form=None, precision="float32", batch=None)
    names = tuple(f"class {n}" for n in range(NUM_CLASSES))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            written = write(
                request,
                Path(folder) / f"network{FORMATS[form].suffix}",
                model=model,
                decoder=decoder,
                spec=CROP if decoder is None else SPEC,
                class_names=names,
                pictures=_pictures(),
                source={},
            )
        except ValueError as error:
            return f"no ({reasons.setdefault(str(error).replace(folder, '').strip(), len(reasons) + 1)})"
    return ("**over its bound** " if written.parity.failures else "") + _shown(written.parity)


def _shown(parity: Parity) -> str:
    parts = [] if parity.boxes is None else [f"{parity.boxes:.1g} px"]
    parts += [] if parity.scores is None else [f"{parity.scores:.1g}"]
    if parity.unmatched:
        parts.append(f"{parity.unmatched} of {parity.unmatched + (parity.matched or 0)} alone")
    return ", ".join(parts) + ("" if parity.is_lively else " (flat)")


class _quiet:  # noqa: N801 (used as a function)
    """What runtimes print by themselves goes nowhere."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self._kept = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        self._threads = torch.get_num_threads()

    def __exit__(self, *_) -> None:
        os.dup2(self._kept, 1)
        os.close(self._kept)


if __name__ == "__main__":
    main()
