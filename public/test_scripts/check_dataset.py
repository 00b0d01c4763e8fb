"""Checks a data set as training would read it: names each defect with its file and object, counts classes and boxes.

  python -m public.test_scripts.check_dataset detection_experiments/ppyoloe_xs_bccd --data_root data
  python -m public.test_scripts.check_dataset data/VOCdevkit/VOC2012
  python -m public.test_scripts.check_dataset data/coco/annotations/instances_val2017.json

An experiment, or a run: its train, val and test data; of classification, its pictures and classes.  A folder with
Annotations/ and JPEGImages/: all its xml files, and the lists in ImageSets/Main.  A COCO json: its pictures are looked for in
--images, else in the usual places beside it.

Errors are pictures that are missing, empty, cut short, damaged, unreadable or not of the annotated size; links that lead
nowhere; annotations that are missing or broken; ids, and file names of a json, that are there twice; unknown classes; boxes
that are not finite, inverted, empty or outside their image (training drops these); areas that cannot be (that of the box is
used); and a picture in two splits, as the same file or with the same decoded pixels.  Warnings are boxes over the edge of
their image (training clips them), boxes, pictures or class names that are there twice, pictures of two splits that look
alike (saved anew, resized, a little cropped, mirrored, turned), classes without objects, and pictures without annotation.

It ends with status 1 if there are errors, else 0.  A page of text, the list of all defects and pictures of the classes, the
boxes and the suspicious boxes go to the folder --output, which may not lie in the data: nothing is written there.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from public import commands
from public.config import ClassificationConfig
from public.datasets.classification_set import ClassificationSet
from public.datasets.coco import Coco
from public.datasets.defects import ERRORS, WARNINGS, Defect
from public.datasets.preparing import checks, class_checks
from public.datasets.voc import read_voc_folder
from public.files import read_json, write_text
from public.reports import data_statistics as statistics
from public.runs.experiment import Experiment, find_data_root, load_experiment

REPORT, LIST = "report.txt", "defects.json"


class Found(NamedTuple):
    """What was read."""

    name: str
    data_root: Path  # where nothing may be written
    sets: dict[str, Any]  # by split: all `Annotations`, or all `ClassificationSet`
    notes: list[str]
    defects: list[Defect]
    lists: dict[str, list[str]]  # of a VOC folder: image ids by split


def main() -> None:
    parser = commands.make_parser("check_dataset", __doc__, experiment=None)
    parser.add_argument("data", help="an experiment's folder or a run, a folder in VOC layout, or a COCO json")
    commands.add_data_root(parser)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of a COCO json: the folder of its pictures")
    parser.add_argument("--quick", action="store_true", help="look at the headers of the pictures only, compare none")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=int, default=cores, metavar="N", help="processes that read pictures (the cores: %(default)s)"
    )
    parser.add_argument(
        "--max_lines", type=int, default=20, metavar="N", help="defects of a kind that are printed (%(default)s)"
    )
    commands.add_output(parser, "folder for the report and the pictures (./<name>_check)")
    if commands.call(check, parser.parse_args()):
        raise SystemExit(1)


def check(arguments: argparse.Namespace) -> int:
    """Prints and writes the report; returns the number of errors.

    Raises:
        FileNotFoundError: `data` is nothing that can be checked.
        ValueError: the output folder lies in the data.
    """
    found = read(arguments)
    output = arguments.output or Path(f"{found.name}_check")
    _refuse_inside(output, found)
    defects = found.defects + look_at_pictures(found, is_quick=arguments.quick, num_workers=arguments.workers)
    for annotations in found.sets.values():
        defects += checks.check_classes(annotations)
    defects = list({(defect.kind, defect.message): defect for defect in defects}.values())  # each once
    output.mkdir(parents=True, exist_ok=True)
    tables = list(found.notes)
    for split, annotations in found.sets.items():
        describe: Any = class_checks.describe if _is_labelled(annotations) else statistics.describe
        tables += [f"{split}: {annotations.description}", *describe(annotations), ""]
    tables += _draw(found, defects, output)
    write_text(output / REPORT, "\n".join([*tables, *_listed(defects, None), _verdict(defects)]) + "\n")
    write_text(output / LIST, json.dumps([defect._asdict() for defect in defects], indent=1) + "\n")
    print("\n".join([*tables, *_listed(defects, arguments.max_lines), _verdict(defects)]))
    print(f"all of it: {output / REPORT}; {output / LIST}")
    return sum(defect.is_error for defect in defects)


# -------------------------------------------------------------------------------------------------------- reading


def read(arguments: argparse.Namespace) -> Found:
    """Reads what `arguments.data` names."""
    path = Path(arguments.data)
    if path.is_file() and path.suffix == ".json":
        return _read_coco(path, arguments.images)
    if (path / "Annotations").is_dir():
        return _read_voc(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a folder nor a .json file")
    try:
        experiment = load_experiment(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is neither an experiment (config.py), nor a run (config.json), nor in VOC layout (Annotations/); "
            "class folders are checked by the experiment that reads them"
        ) from error
    return _read_experiment(experiment, find_data_root(arguments.data_root))


def _read_experiment(experiment: Experiment, data_root: Path) -> Found:
    config = experiment.config
    name = experiment.name if experiment.run is None else f"{experiment.name}_{experiment.run.name}"
    found = Found(name, data_root, {}, [f"data root: {data_root}"], [], {})
    class_names = None
    for split in ("train", "val", "test"):
        data = getattr(config, f"{split}_data")
        if data is None:
            continue
        try:
            if isinstance(config, ClassificationConfig):
                annotations = data.read(data_root, class_names)
            else:
                annotations = data.read(data_root, class_names, on_defect=found.defects.append)
        except (OSError, ValueError) as error:
            found.defects.append(Defect("unusable set", f"{split}_data", f"{split}_data: {error}"))
            continue
        found.sets[split] = annotations
        class_names = class_names or annotations.class_names
    if class_names and len(class_names) != config.network_settings.num_classes:
        network = "classifier" if isinstance(config, ClassificationConfig) else "detector"
        text = (
            f"the data have {len(class_names)} classes ({', '.join(class_names)}), the {network} of the configuration has "
            f"num_classes = {config.network_settings.num_classes}"
        )
        found.defects.append(Defect("unusable set", "config.py", text))
    return found


def _read_voc(folder: Path) -> Found:
    name = folder.resolve().name
    lists = checks.voc_splits(folder)
    notes = [f"lists in ImageSets/Main: {', '.join(f'{split} ({len(ids)})' for split, ids in lists.items()) or 'none'}"]
    num_others = len(checks.all_lists(folder)) - len(lists)
    if num_others:
        notes.append(f"         {num_others} lists of single classes (<image id> -1, 0 or 1) are passed over")
    found = Found(name, folder, {}, notes, [], lists)
    try:
        found.sets["all"] = read_voc_folder(folder, found.defects.append)
    except (OSError, ValueError) as error:
        found.defects.append(Defect("unusable set", str(folder), str(error)))
    found.defects[:] = checks.forgive_unlisted(found.defects, lists)
    found.defects.extend(checks.check_voc_lists(folder, lists))
    return found


def _read_coco(path: Path, images: Path | None) -> Found:
    found = Found(path.stem, path.parent, {}, [], [], {})
    if images is None:
        images = _find_images(path)
        found.notes.append(f"pictures: {images} (found beside the json; --images FOLDER names another)")
    elif not images.is_dir():
        raise FileNotFoundError(f"--images {images} is not a folder")
    data = Coco(annotations=path.name, images=os.path.abspath(images), classes=None, keep_empty_images=True)
    try:
        found.sets["all"] = data.read(path.parent, on_defect=found.defects.append)
    except (OSError, ValueError) as error:
        found.defects.append(Defect("unusable set", str(path), str(error)))
    return found


def _find_images(path: Path) -> Path:
    """The first of the usual folders that has a picture of the json, or the first that is there."""
    split = path.stem.removeprefix("instances_")
    around = [path.parent / split, path.parent / "images" / split, path.parent / "images", path.parent]
    above = path.parent.parent
    around += [above / split, above / "images" / split, above / "images", above / "JPEGImages"]
    present = [folder for folder in around if folder.is_dir()]
    try:
        names = [image["file_name"] for image in read_json(path)["images"]][:100]
    except (ValueError, KeyError, TypeError):
        return present[0]  # reading the json says what is wrong with it
    for folder in present:
        if any((folder / name).is_file() for name in names if isinstance(name, str)):
            return folder
    raise FileNotFoundError(
        f"{path}: none of its first {len(names)} pictures is in {', '.join(map(str, present))}; give --images FOLDER"
    )


# ----------------------------------------------------------------------------------------------------- looking


def look_at_pictures(found: Found, *, is_quick: bool, num_workers: int) -> list[Defect]:
    """The defects of the pictures, and of pictures that splits share."""
    told = {defect.file for defect in found.defects if defect.kind.endswith(("missing picture", "without picture"))}
    seen = {
        split: _look(annotations, is_quick=is_quick, num_workers=num_workers, title=split)
        for split, annotations in found.sets.items()
    }
    defects = [picture.defect for pictures in seen.values() for picture in pictures if picture.defect]
    defects = [defect for defect in defects if defect.file not in told]
    if not found.lists:
        return defects + checks.find_shared(seen)
    by_id = dict(zip(found.sets["all"].image_ids.tolist(), seen["all"])) if "all" in seen else {}
    is_union = {"train", "val"} <= found.lists.keys()  # trainval, of the two
    names = ("train", *(() if is_union else ("trainval",)), "val", "valid", "validation", "test")
    splits: dict[str, list[checks.Seen]] = {
        split: [by_id[image_id] for image_id in found.lists[split] if image_id in by_id]
        for split in names
        if split in found.lists
    }
    return defects + checks.find_shared(splits or seen)


def _look(annotations, *, is_quick: bool, num_workers: int, title: str) -> list[checks.Seen]:
    if _is_labelled(annotations):
        pictures = class_checks.LabelledPictures(annotations, is_quick)
        return checks.look_at(pictures, num_workers=num_workers, title=title)
    return checks.check_pictures(annotations, is_quick=is_quick, num_workers=num_workers, title=title)


def _is_labelled(annotations) -> bool:
    """Whether it is a set of classification."""
    return isinstance(annotations, ClassificationSet)


# ------------------------------------------------------------------------------------------------------ telling


def _refuse_inside(output: Path, found: Found) -> None:
    folders = {found.data_root.resolve(), *(Path(a.image_root).resolve() for a in found.sets.values() if a.image_root)}
    for folder in folders:
        if output.resolve().is_relative_to(folder):
            raise ValueError(
                f"the output folder {output.resolve()} lies in the data, {folder}, where nothing is written; give --output "
                "FOLDER outside it"
            )


def _draw(found: Found, defects: list[Defect], output: Path) -> list[str]:
    """Draws the pictures; lines that name them."""
    lines = []
    labelled = {split: pictures for split, pictures in found.sets.items() if _is_labelled(pictures)}
    if labelled:
        statistics.draw_classes(labelled, output / "classes.png", "images")
        return [f"drawn: {output / 'classes.png'}", ""]
    sets = {split: annotations for split, annotations in found.sets.items() if len(annotations.boxes)}
    if sets:
        statistics.draw_classes(sets, output / "classes.png")
        statistics.draw_boxes(sets, output / "boxes.png")
        lines.append(f"drawn: {output / 'classes.png'}, {output / 'boxes.png'}")
    suspicious = sorted((defect for defect in defects if defect.picture), key=lambda defect: not defect.is_error)
    number = statistics.draw_suspicious(suspicious, output / "suspicious_boxes.jpg")
    if number:
        lines.append(f"drawn: {output / 'suspicious_boxes.jpg'}, {number} pictures with boxes that are not right")
    return [*lines, ""] if lines else []


def _listed(defects: list[Defect], most: int | None) -> list[str]:
    """Every kind of defect with its lines, of each kind at most `most`."""
    lines = []
    for level, kinds in (("ERROR", ERRORS), ("warning", WARNINGS)):
        for kind in kinds:
            messages = [defect.message for defect in defects if defect.kind == kind]
            shown = messages if most is None else messages[:most]
            if messages:
                lines.append(f"{level}: {kind} ({len(messages)})")
                lines += [f"    {message}" for message in shown]
            if len(shown) < len(messages):
                lines.append(f"    ... and {len(messages) - len(shown)} more, all in {REPORT}")
    return [*lines, ""] if lines else []


def _verdict(defects: list[Defect]) -> str:
    num_errors = sum(defect.is_error for defect in defects)
    return f"{num_errors} errors, {len(defects) - num_errors} warnings"


if __name__ == "__main__":
    main()
