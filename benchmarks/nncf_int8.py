"""int8 files of NNCF beside what `quantise` makes of the same float file: calibrated and measured on the same pictures.

    python -m public.test_scripts.quantise EXPERIMENT s.pth --runtime openvino --calibration 50 --data_root halves/a -o D
    pip install nncf
    python -m benchmarks.nncf_int8 EXPERIMENT D/NAME.xml --calibration 50 --data_root halves/a

NNCF is used as it comes, by each of its presets of activations ("performance": ranges around 0; "mixed": any where there are
negative values); which layers stay float is its own choice.  Its files lie beside the float one, and open as any exported
file does.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from public.export.calibration import draw_pixels
from public.export.formats import make_decoder, open_network
from public.export.packages import need, openvino_core
from public.runs.experiment import find_data_root, load_experiment
from public.tasks import make_task

PRESETS = ("performance", "mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="folder of a detector's experiment, or a run, whose sets are used")
    parser.add_argument("file", type=Path, help="the float file, .xml, that quantise has written")
    parser.add_argument("--calibration", type=int, default=64, help="pictures of the training set (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the stream that draws them (%(default)s)")
    parser.add_argument("--data_root", help="as of quantise")
    arguments = parser.parse_args()
    nncf = need("nncf", "nncf")
    torch.set_num_threads(1)
    float_network = open_network(arguments.file)
    card = float_network.card
    task = make_task(
        load_experiment(arguments.experiment).config,
        data_root=find_data_root(arguments.data_root),
        device=torch.device("cpu"),
        limit_images=None,
    )
    task.decoder = make_decoder(card)
    drawn = draw_pixels(task.data("train"), arguments.calibration, arguments.seed, card.input)
    pictures = [pixels for _, pixels, _ in drawn]  # as the file takes them
    tell("float", task.evaluate(float_network, "val"), arguments.file)
    for preset in PRESETS:
        model = nncf.quantize(
            openvino_core().read_model(str(arguments.file)),
            nncf.Dataset(pictures),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset(preset),
        )
        path = arguments.file.with_name(f"{arguments.file.stem}_nncf_{preset}.xml")
        need("openvino", "openvino").save_model(model, str(path), compress_to_fp16=False)
        tell(f"NNCF, {preset}", task.evaluate(open_network(path), "val"), path)


def tell(name: str, metrics: dict[str, Any], path: Path) -> None:
    size = (path.stat().st_size + path.with_suffix(".bin").stat().st_size) / 1024
    print(f"{name}: AP {100 * metrics['AP']:.2f}, AP50 {100 * metrics['AP50']:.2f}, {size:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
