"""Writes a checkpoint in another format: .pth as .safetensors, or the other way; the same weights and the same card.

    python -m public.weights.repack detection_experiments/ppyoloe_s_voc/runs/<time>/best.pth best.safetensors

.safetensors needs the package of that name (pip install safetensors).  Every command takes either.
"""

import argparse
from pathlib import Path

from public.checkpoint_files import digest, load_checkpoint, save_atomic
from public.commands import call


def repack(source: Path, output: Path) -> str:
    """Writes `output`, in the format that its name says; returns a line about it.

    Raises:
        FileExistsError: `output` is there already.
        FileNotFoundError: there is no such checkpoint.
        ValueError: `source` is none, or holds more than the format can.
    """
    if output.exists():
        raise FileExistsError(f"{output} is there already, and nothing is overwritten")
    checkpoint = load_checkpoint(source)
    save_atomic(checkpoint, output)
    return f"{output}: {len(checkpoint['model'])} tensors, digest {digest(checkpoint['model'])}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m public.weights.repack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, help="a checkpoint, .pth or .safetensors")
    parser.add_argument("output", type=Path, help="the file to write, .pth or .safetensors")
    return parser


if __name__ == "__main__":
    call(lambda arguments: print(repack(arguments.source, arguments.output)), make_parser().parse_args())
