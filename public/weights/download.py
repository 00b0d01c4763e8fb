"""Fetches known official weights, converts them, and lays a card beside them.

    python -m public.weights.download ppyoloe_plus_s_coco
    python -m public.weights.download --list

NAME is one of pretrained/README.md, without .pth, or that of a network, which means its weights from COCO or ImageNet.
Stopped at any moment, the same command goes on where it was.  The original has to have the sum that is known for it, if one
is; it stays in the folder, and nothing that is there is overwritten or removed.  Addresses: --url ADDRESS is the file itself
somewhere else, $ENCORE_MIRROR a folder on the web that holds the originals by their names, else its makers'.
"""

import argparse
import os
from difflib import get_close_matches
from pathlib import Path

from public.checkpoint_files import digest, load_checkpoint
from public.commands import call
from public.datasets.preparing.download import Archive, fetch, only_process
from public.files import REPOSITORY
from public.weights.cards import card_path, write_card
from public.weights.convert import convert
from public.weights.known import KnownWeights, all_known, of_network

MIRROR = "ENCORE_MIRROR"
ELSEWHERE = f"--url and an address that holds it, or ${MIRROR}"


def find(name: str) -> KnownWeights:
    """The known file that `name` means.

    Raises:
        ValueError: there is none; naming the nearest.
    """
    for known in all_known():
        if name in (known.short_name, known.name, known.original):
            return known
    meant = of_network(name)
    if meant is None:
        names = [item.short_name for item in all_known()]
        nearest = get_close_matches(name, names, n=3) or names[:3]
        raise ValueError(f"no known weights are called {name!r}; did you mean {', '.join(nearest)}? All: --list")
    return meant


def download(
    name: str, *, url: str | None = None, folder: Path = REPOSITORY / "pretrained", wait: float = 2.0
) -> list[str]:
    """Fetches and converts the weights `name`; returns the lines of the report.

    Args:
        url: where the original lies, if not where its makers have it.
        folder: for the original, the checkpoint and its card.
        wait: seconds before the second attempt of a broken transfer; each further one waits twice as long.

    Raises:
        OSError: the transfer failed for good; what was received stays, for the next call to go on from.
        ValueError: `name` is not known, the sum is wrong, or the file does not fit the network.
    """
    known = find(name)
    target = folder / known.name
    licence = f"licence: {known.licence}"
    if target.exists():
        return [f"{target}: there already, and left as it is", licence]
    folder.mkdir(parents=True, exist_ok=True)
    mirror = None if url else os.environ.get(MIRROR) or None
    archive = Archive(
        url=url or known.url, size=None, sha256=known.sha256, mirror=None, elsewhere=ELSEWHERE, file=known.original
    )
    with only_process(folder):
        original = fetch(archive, folder, mirror=mirror, wait=wait, keep_refused=True)
        try:
            lines = convert(
                source=known.project,
                model_name=known.model,
                file=original,
                output=target,
                backbone_only=known.backbone_only,
            )
        except ValueError as error:
            raise ValueError(f"{error}. The file stays as {original}; move it away to fetch it again") from error
        checkpoint = load_checkpoint(target)
        other = url or (f"{mirror.rstrip('/')}/{known.original}" if mirror else None)
        write_card(target, checkpoint, digest(checkpoint["model"]), fetched_from=other)
    return [*lines, f"{card_path(target)}: its card; the original stays as {original}", licence]


def listing() -> list[str]:
    """A line for each known file."""
    width = max(len(known.short_name) for known in all_known())
    return [
        f"{known.short_name:<{width}}  {'there' if known.path.is_file() else '-':<5}  {known.source}; {known.published}"
        for known in all_known()
    ]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m public.weights.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the weights, such as ppyoloe_plus_s_coco or resnet18")
    parser.add_argument("--list", action="store_true", help="show all names, and do nothing else")
    parser.add_argument("--url", metavar="ADDRESS", help="where the original lies, instead of where its makers have it")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "pretrained", help="where all is put (the repository's pretrained/)"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.list:
        print("\n".join(listing()))
    elif arguments.name is None:
        raise ValueError("say which weights, NAME; --list shows all")
    else:
        print("\n".join(download(arguments.name, url=arguments.url, folder=arguments.folder)))


def main() -> None:
    parser = make_parser()
    try:
        call(run, parser.parse_args())
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command resumes from here") from None


if __name__ == "__main__":
    main()
