"""Downloads CIFAR-10 or CIFAR-100 and unpacks it where the experiments look for it.

  python -m public.test_scripts.download_cifar --classes 100 --data_root data

makes data/cifar-100-python, and --classes 10 makes data/cifar-10-batches-py (0.2 GB each; while it works it needs twice
that).  Stopped at any moment, the same command goes on where it was.  Each archive has to have the sha256 that is known
for it.  A set that is there already is left as it is.
"""

import argparse
from pathlib import Path

from public import commands
from public.datasets.preparing.download_cifar import ARCHIVE_FOLDER, ARCHIVES, download_cifar, read_both
from public.runs.experiment import find_data_root


def main() -> None:
    parser = commands.make_parser("download_cifar", __doc__, experiment=None)
    parser.add_argument("--classes", type=int, nargs="+", required=True, choices=sorted(ARCHIVES), help="which sets")
    commands.add_data_root(parser)
    parser.add_argument(
        "--mirror", metavar="URL", help="folder on the web that holds the archives; without it the official address"
    )
    parser.add_argument(
        "--keep_archives",
        action="store_true",
        help=f"leave the archives in <data_root>/{ARCHIVE_FOLDER} (they are deleted once unpacked); an archive that lies "
        "there already is not fetched",
    )
    try:
        commands.call(download, parser.parse_args())
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command resumes from here") from None


def download(arguments: argparse.Namespace) -> None:
    """Fetches and unpacks the named sets."""
    if arguments.data_root:
        Path(arguments.data_root).mkdir(parents=True, exist_ok=True)
    data_root = find_data_root(arguments.data_root)
    for number in dict.fromkeys(arguments.classes):
        known = ARCHIVES[number]
        is_new = download_cifar(known, data_root, mirror=arguments.mirror, keep_archive=arguments.keep_archives)
        folder = data_root / known.folder
        sets = read_both(folder)
        counts = ", ".join(f"{split} {len(pictures)} images" for split, pictures in sets.items())
        state = "complete" if is_new else "was there already, complete"
        print(f"{folder}: {state}; {counts}, {len(sets['train'].class_names)} classes")


if __name__ == "__main__":
    main()
