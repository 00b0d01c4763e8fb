"""Starting weights that are named by an experiment: its best ones, or what has to be trained first.

`starting_weights="detection_experiments/resnet50_retinanet_coco_resize667"`, or the name of the folder alone, means the best
weights of that experiment's newest run; a run's folder means those of this run.
"""

import contextlib
from difflib import get_close_matches
from pathlib import Path

from public.files import REPOSITORY, read_json_object
from public.runs.experiment import is_experiment, load_experiment
from public.runs.run_folder import newest_weights

PLACES = "*_experiments"  # folders of the repository that hold experiments


def named_experiment(name: str) -> Path | None:
    """The folder of the experiment, or of the run, that starting weights called `name` mean; None: they are a file.

    Args:
        name: relative to the repository, or the name of an experiment's folder alone.

    Raises:
        ValueError: several experiments have this name, naming them.
        FileNotFoundError: it has no ending, as files of weights have, and is no experiment; with the nearest names.
    """
    path = REPOSITORY / name
    if path.is_file():
        return None
    if is_experiment(path):
        return path
    found = [folder for place in sorted(REPOSITORY.glob(PLACES)) if is_experiment(folder := place / name)]
    if len(found) > 1:
        raise ValueError(
            f"several experiments are called {name}: {' and '.join(map(shown_place, found))}; name the folder"
        )
    if found:
        return found[0]
    if path.suffix:
        return None
    known = sorted(page.parent.name for page in REPOSITORY.glob(f"{PLACES}/*/config.py"))
    nearest = get_close_matches(path.name, known, n=3)
    hint = f" (near: {', '.join(nearest)})" if nearest else ""
    raise FileNotFoundError(
        f"the configuration starts from {name}, which is neither an experiment{hint} nor a file; a file is named with its "
        "ending, such as pretrained/resnet50_imagenet.pth. To train from scratch: --starting_weights none"
    )


def best_weights(folder: Path) -> Path:
    """The best weights of the run `folder`, or of the newest run of the experiment `folder` that has any.

    Raises:
        FileNotFoundError: there are none, saying what to run first.
    """
    experiment = load_experiment(folder)
    weights = newest_weights(experiment)
    if weights is None:
        raise FileNotFoundError(
            f"the configuration starts from the best weights of {shown_place(folder)}, which has none yet. Run it first: "
            f"python {shown_place(experiment.folder)}/train.py; or name a file: --starting_weights FILE. "
            "To train from scratch: --starting_weights none"
        )
    return weights


def described(weights: Path) -> str:
    """Where the weights of a run lie, and that it is still unfinished where it is."""
    with contextlib.suppress(OSError, ValueError):
        if not read_json_object(weights.parent / "manifest.json").get("finished"):
            return f"{shown_place(weights)}, the best so far of a run that is not finished"
    return shown_place(weights)


def shown_place(path: Path) -> str:
    """`path` as it is typed in the repository; as it is, where it lies elsewhere."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
