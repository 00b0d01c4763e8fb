"""Checks a data set as training would read it: names each defect with its file and object, counts classes and boxes.

  python -m public.test_scripts.check_dataset detection_experiments/ppyoloe_xs_bccd --data_root data
  python -m public.test_scripts.check_dataset data/VOCdevkit/VOC2012
  python -m public.test_scripts.check_dataset data/coco/annotations/instances_val2017.json
  python -m public.test_scripts.check_dataset mine/

An experiment, or a run: its train, val and test data; of classification, its pictures and classes.  A folder: it says what
it found there, of VOC xml files (Annotations/ and JPEGImages/, two folders of other names, or beside the pictures; all of
them, and the lists in ImageSets/Main), COCO jsons, YOLO labels and class folders.  A COCO json: its pictures are looked for
in --images, else in the usual places beside it.  A data.yaml: the YOLO labels of its splits.

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
from typing import Any, NamedTuple, cast

from public import commands
from public.config import ClassificationConfig
from public.datasets.classification_set import ClassificationSet
from public.datasets.defects import ERRORS, WARNINGS, Defect
from public.datasets.layouts import KINDS, Layout
from public.datasets.preparing import checks, class_checks
from public.datasets.voc import Places, read_voc_folder
from public.files import write_text
from public.reports import data_statistics as statistics
from public.runs.experiment import Experiment, find_data_root, is_experiment, load_experiment, open_layout

REPORT, LIST = "report.txt", "defects.json"


class Found(NamedTuple):
    """What was read."""

    name: str
    data_root: Path  # where nothing may be written
    sets: dict[str, Any]  # by split: all `Annotations`, or all `ClassificationSet`
    notes: list[str]
    defects: list[Defect]
    lists: dict[str, list[str]]  # of a VOC folder: image ids by split
    layout: str = ""  # of a folder or file of data: what was found there; of an experiment nothing


def main() -> None:
    parser = commands.make_parser("check_dataset", __doc__, experiment=None)
    parser.add_argument("data", help="an experiment's folder or a run; a folder of data, a COCO json, or a data.yaml")
    commands.add_data_root(parser)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of a COCO json: the folder of its pictures")
    parser.add_argument("--layout", choices=KINDS, help="which to take where a folder holds several")
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
    tables = [*([found.layout] if found.layout else []), *found.notes]
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
    if is_experiment(path):
        return _read_experiment(load_experiment(path), find_data_root(arguments.data_root))
    images = arguments.images
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"--images {images} is not a folder")
    folder = None if images is None else os.path.abspath(images)
    layout = open_layout(path, kind=getattr(arguments, "layout", None), images=folder)
    return _read_voc(layout) if layout.places is not None else _read_layout(path, layout)


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


def _read_voc(layout: Layout) -> Found:
    """All xml files of a folder and its lists, which may leave some out."""
    folder, places = cast(Path, layout.folder), cast(Places, layout.places)
    lists = checks.voc_splits(folder)
    notes = [f"lists in ImageSets/Main: {', '.join(f'{split} ({len(ids)})' for split, ids in lists.items()) or 'none'}"]
    num_others = len(checks.all_lists(folder)) - len(lists)
    if num_others:
        notes.append(f"         {num_others} lists of single classes (<image id> -1, 0 or 1) are passed over")
    found = Found(folder.name, folder, {}, notes, [], lists, f"found: {layout.found}")
    try:
        found.sets["all"] = read_voc_folder(folder, found.defects.append, places)
    except (OSError, ValueError) as error:
        found.defects.append(Defect("unusable set", str(folder), str(error)))
    found.defects[:] = checks.forgive_unlisted(found.defects, lists, folder / places.images)
    found.defects.extend(checks.check_voc_lists(folder, lists, places))
    return found


def _read_layout(path: Path, layout: Layout) -> Found:
    """The sets of a COCO json, YOLO labels, class folders, or VOC xml in several folders."""
    place = path.resolve()
    folder = place.parent if place.is_file() else place
    name = place.stem if place.suffix == ".json" else folder.name
    found = Found(name, folder, {}, list(layout.notes), [], {}, f"found: {layout.found}")
    class_names = None
    for split, data in layout.sets.items():
        try:
            if layout.is_classification:
                read = data.read(layout.data_root, class_names)
            else:
                read = data.read(layout.data_root, class_names, on_defect=found.defects.append)
        except (OSError, ValueError) as error:
            if layout.kind == "coco" and isinstance(error, FileNotFoundError):
                raise  # where its pictures lie has to be said
            found.defects.append(Defect("unusable set", str(place), f"{split}: {error}"))
            continue
        found.sets[split] = read
        class_names = class_names or read.class_names
        if layout.kind == "coco":
            how = "of --images" if data.images else "found beside the json; --images FOLDER names another"
            found.notes.append(f"pictures: {read.image_root} ({how})")
    return found


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
    for folder in _folders_of_data(found):
        if output.resolve().is_relative_to(folder):
            raise ValueError(
                f"the output folder {output.resolve()} lies in the data, {folder}, where nothing is written; give --output "
                "FOLDER outside it"
            )


def _folders_of_data(found: Found) -> set[Path]:
    """Where nothing is written: the folder of the data; of an experiment those under the data root that its sets lie in."""
    root = found.data_root.resolve()
    if found.layout or not found.sets:
        return {root, *(Path(a.image_root).resolve() for a in found.sets.values() if a.image_root)}
    places = set()
    for pictures in found.sets.values():
        for folder in {os.path.dirname(file) for file in pictures.picture_files()} or {found.data_root}:
            place = Path(folder).resolve()
            inside = place.relative_to(root).parts if place.is_relative_to(root) else None
            places.add(place if inside is None else root.joinpath(*inside[:1]))
    return places


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
