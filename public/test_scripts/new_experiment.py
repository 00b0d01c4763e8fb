"""Writes the page of an experiment on your own data, from an existing one; then checks and shows the data.

  python -m public.test_scripts.new_experiment mine --from ppyoloe_xs_bccd --data path/to/mine/
  python -m public.test_scripts.new_experiment flowers --from imagenet_experiments/resnet18 --data path/to/flowers/

DATA is a folder of pictures with VOC xml, COCO jsons, YOLO labels, or class folders (for a page that classifies); it says
what it found.  The new folder (config.py, train.py, test.sh) stands beside the one that it is written from.  Classes come
from the data; the split, batch, learning rate and size are chosen, each with a comment on the page that says why: read it,
and change what you know better.  Nothing that is there is overwritten, and nothing is written into your data.

Then `check_dataset` and `show_data` run on the new page (what they write lies in its runs/data/), and the command that trains
is printed.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from public import commands
from public.config import ClassificationConfig
from public.datasets.defects import DROPPED_BOXES, Defect
from public.datasets.layouts import KINDS, Layout, find_layout
from public.files import REPOSITORY
from public.runs import fitting
from public.runs.experiment import Experiment, find_data_root, load_experiment
from public.runs.own_page import Own, missing_weights, write_page
from public.runs.page_folder import write_folder


def main() -> None:
    commands.call(make, make_parser().parse_args())


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("new_experiment", __doc__, experiment=None)
    parser.add_argument("name", metavar="NAME", help="of the new folder: small letters, digits and _")
    parser.add_argument(
        "--from",
        dest="original",
        required=True,
        metavar="EXPERIMENT",
        help="the page to start from: its name, or folder",
    )
    parser.add_argument("--data", type=Path, required=True, help="your folder of data, a COCO json, or a data.yaml")
    parser.add_argument("--layout", choices=KINDS, help="which to take where a folder holds several")
    parser.add_argument("--page_only", action="store_true", help="write the page, and neither check nor show the data")
    return parser


def make(arguments: argparse.Namespace) -> Path:
    """Writes the experiment and returns its folder.

    Raises:
        FileExistsError: there is something of that name.
        FileNotFoundError: there is no such page, or no data.
        ValueError: the data do not fit the page, or can be read in several ways.
    """
    original = find_original(arguments.original)
    folder = original.folder.parent / arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arguments.name):
        raise ValueError(f"NAME is {arguments.name!r}; a folder of an experiment has small letters, digits and _ in it")
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} is there already, and nothing is overwritten; choose another NAME")
    layout = find_layout(arguments.data, kind=arguments.layout)
    print(f"found: {layout.found}")
    own = read_data(layout, original)
    flag = _data_root_flag(layout.data_root)
    write_folder(original.source, folder, write_page(own, folder.name, f"python train.py{flag}"))
    missing = missing_weights(own)
    if missing is not None:
        print(
            f"{original.name} starts from weights that are not there, so the page starts from scratch, which few pictures do "
            f"not bear well; to get them first: {missing}"
        )
    print(f"written: {folder / 'config.py'}; every value that was chosen stands below the reason")
    train = f"python {shlex.quote(os.path.relpath(folder / 'train.py'))}{flag}"
    num_errors = 0 if arguments.page_only else look(folder, flag)
    print(f"to train: {train}")
    if num_errors:
        raise ValueError(
            f"the check found {num_errors} error{'s' if num_errors > 1 else ''}, see above, at which training stops or which "
            "spoils its figures; mend that first. The page is written"
        )
    return folder


def find_original(named: str) -> Experiment:
    """The experiment in a folder, or the one of this name in the working folder or the repository.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several of this name.
    """
    if (Path(named) / "config.py").is_file():
        return load_experiment(named)
    found: list[Path] = []
    for root in (Path.cwd(), REPOSITORY):
        pages = sorted(root.glob("*_experiments/*/config.py"))
        found = found or [page.parent for page in pages if page.parent.name == named]
    if len(found) > 1:
        names = " and ".join(f"{folder.parent.name}/{folder.name}" for folder in found)
        raise ValueError(f"{len(found)} experiments are called {named}: {names}; name the folder")
    if not found:
        raise FileNotFoundError(
            f"--from {named} is neither the folder nor the name of an experiment; detectors: ppyoloe_xs_bccd, "
            "ppyoloe_s_coco, ...; classifiers: imagenet_experiments/resnet18, ..."
        )
    return load_experiment(found[0])


# ------------------------------------------------------------------------------------------------------ the data


def read_data(layout: Layout, original: Experiment) -> Own:
    """Reads the data and chooses its parts; entries that cannot be used are left to the check."""
    is_classifier = isinstance(original.config, ClassificationConfig)
    if is_classifier != layout.is_classification:
        have, remedy = (
            ("class folders", "imagenet_experiments/resnet18")
            if layout.is_classification
            else ("boxes", "ppyoloe_xs_bccd")
        )
        raise ValueError(
            f"{original.name} does not fit the data, which have {have}: take a page such as --from {remedy}"
        )
    read = {}
    for split, data in layout.sets.items():
        if is_classifier:
            names = next((found.class_names for found in read.values()), None)
            read[split] = data.read(layout.data_root, names)
        else:
            defects: list[Defect] = []
            read[split] = data.read(layout.data_root, on_defect=defects.append)
    names, notes = own_classes(layout, read)
    return Own(original, layout, fitting.choose_parts(layout, read), names, notes)


def own_classes(layout: Layout, read: dict) -> tuple[tuple[str, ...], list[str]]:
    """The classes of all parts in label order, and what is to be said about them.

    A category of a COCO json without a single object, such as the root that Roboflow writes, is left out.

    Raises:
        ValueError: two parts, whose files number their classes, have other classes.
    """
    names = dict.fromkeys(name for part in read.values() for name in part.class_names)
    if layout.kind == "voc":
        names = dict.fromkeys(sorted(names))
    orders = {tuple(part.class_names) for part in read.values()}
    if layout.kind in ("coco", "yolo") and len(orders) > 1:
        raise ValueError(f"{layout.found}: the parts have other classes: {' and '.join(map(str, sorted(orders)))}")
    used = {part.class_names[label] for part in read.values() for label in set(part.labels.tolist())}
    unused = [name for name in names if name not in used]
    notes = []
    if unused and used and layout.kind == "coco":
        names = dict.fromkeys(name for name in names if name in used)
        notes.append(f"left out, since the json has no object of them: {', '.join(unused)}")
    elif unused:
        notes.append(f"without any object: {', '.join(unused)}")
    return tuple(names), notes


def _data_root_flag(data_root: Path) -> str:
    """What train.py has to be told about the folder above the data; nothing where it looks there by itself."""
    try:
        if find_data_root(None) == data_root:
            return ""
    except FileNotFoundError:
        pass  # there is no data/ yet
    return f" --data_root {shlex.quote(str(data_root))}"


# ------------------------------------------------------------------------------------------------------ the folder


def look(folder: Path, flag: str) -> int:
    """Types `check_dataset` and `show_data` on the new page; the number of errors beside boxes that are dropped.

    What they write goes to the experiment's runs/, which is no part of the recipe.
    """
    place = folder / "runs" / "data"
    place.mkdir(parents=True)
    for command, output in (("check_dataset", place), ("show_data", place / "train_samples.jpg")):
        words = ["-m", f"public.test_scripts.{command}", str(folder), *shlex.split(flag), "--output", str(output)]
        print(f"\n$ python {shlex.join(words)}", flush=True)
        subprocess.run([sys.executable, *words], env=_environment())
    print()
    if not (place / "defects.json").is_file():
        return 1  # the check said why
    kinds = [Defect(**defect) for defect in json.loads((place / "defects.json").read_text(encoding="utf-8"))]
    if any(defect.kind in DROPPED_BOXES for defect in kinds):
        print("training leaves the boxes out that are named above, and lists them in bad_boxes.txt")
    return sum(defect.leaves_out for defect in kinds)


def _environment() -> dict[str, str]:
    """This process's own, and the repository among the places that modules are imported from."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    main()
