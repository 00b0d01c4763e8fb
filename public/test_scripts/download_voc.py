"""Downloads Pascal VOC 2007 or 2012 and unpacks it where the experiments look for it.

  python -m public.test_scripts.download_voc --year 2007 2012 --data_root data

makes data/VOCdevkit/VOC2007 (trainval and test, 0.9 GB) and data/VOCdevkit/VOC2012 (trainval, 2.0 GB); while it works it
needs twice that.  Stopped at any moment, the same command goes on where it was.  Each archive has to have the sha256 that
is known for it.  A set that is there already is left as it is.
"""

import argparse
from pathlib import Path

from public import commands
from public.datasets.preparing.download import ARCHIVE_FOLDER, MIRROR, VOC_YEARS, download_voc
from public.runs.experiment import find_data_root


def main() -> None:
    parser = commands.make_parser("download_voc", __doc__, experiment=None)
    parser.add_argument("--year", type=int, nargs="+", required=True, choices=sorted(VOC_YEARS), help="which sets")
    commands.add_data_root(parser)
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=f"folder on the web that holds the archives, such as {MIRROR}; without it the official addresses",
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
    """Fetches and unpacks the named years."""
    if arguments.data_root:
        Path(arguments.data_root).mkdir(parents=True, exist_ok=True)
    data_root = find_data_root(arguments.data_root)
    for number in dict.fromkeys(arguments.year):
        year = VOC_YEARS[number]
        is_new = download_voc(year, data_root, mirror=arguments.mirror, keep_archives=arguments.keep_archives)
        counts = ", ".join(f"{split} {count}" for split, count in year.splits.items())
        state = "complete" if is_new else "was there already, complete"
        print(f"{data_root / 'VOCdevkit' / year.folder}: {state}; images: {counts}")


if __name__ == "__main__":
    main()
