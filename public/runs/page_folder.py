"""The folder of an experiment that is written from another: its files, with a page of its own."""

import os
import shutil
from pathlib import Path

from public.experiment_files import experiment_files
from public.runs.experiment import load_experiment
from public.runs.near_copies import line_of_near_copy
from public.runs.page_text import PageText


def check_new(folder: Path) -> None:
    """Raises FileExistsError where there is something of that name."""
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} is there already, and nothing is overwritten; choose another name")


def write_folder(source: Path, folder: Path, page: PageText) -> None:
    """Copies the files of the experiment in `source` to `folder`, which is new, and writes `page` for its config.py.

    The card gets the line of a near copy, third, where it is one.  The folder appears whole or not at all.

    Raises:
        FileExistsError: there is something of that name.
        ValueError: the page cannot be loaded.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed command left
    try:
        temporary.mkdir()
        for file in experiment_files(source):
            target = temporary / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        (temporary / "config.py").write_text(page.text, encoding="utf-8")
        line = line_of_near_copy(temporary, list(page.settings), folder.parent)
        if line is not None:
            page.set_card([*page.card[:2], line, *page.card[2:]])
            (temporary / "config.py").write_text(page.text, encoding="utf-8")
        load_experiment(temporary)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
