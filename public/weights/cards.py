"""The card of converted weights: a JSON beside the file, so that a person knows later what it is.

    {"file": "ppyoloe_s_coco.pth", "sha256": ..., "digest": ..., "network": "ppyoloe_s", "num_classes": 80, "input": {...},
     "made_from": {"project": "paddle", "file": ..., "sha256": ..., "url": ...}, "trained_on": ..., "published": ...,
     "licence": ...}

`url`, `trained_on`, `published` and `licence` are null where the file is none of the known ones.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from public.files import write_whole
from public.weights.known import by_original


def card_path(path: Path) -> Path:
    """Where the card of the weights `path` lies."""
    return path.with_suffix(".json")


def refuse_other(path: Path) -> None:
    """Refuses weights whose card would be written over a JSON that is none.

    Raises:
        ValueError: naming it.
    """
    place = card_path(path)
    if not place.exists():
        return
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not (isinstance(content, dict) and content.keys() >= {"made_from", "network", "digest"}):
        raise ValueError(f"{place} is there and is no card of weights; it would be overwritten: name another output")


def write_card(path: Path, checkpoint: dict[str, Any], digest: str, fetched_from: str | None = None) -> dict[str, Any]:
    """Writes the card of the checkpoint `path`, and returns it.

    Args:
        checkpoint: what the checkpoint says beside its weights.
        digest: of the weights, as `public.checkpoint_files.digest` makes it.
        fetched_from: the address from which the original was fetched, if it was another than its makers'.

    Raises:
        OSError: it cannot be written; naming it and the reason.
    """
    origin = checkpoint["converted_from"]
    known = by_original(origin["file"], origin["project"])
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    card = {
        "file": path.name,
        "sha256": sha256,
        "digest": digest,
        "network": checkpoint["model_name"],
        "part": checkpoint.get("part", "whole"),
        "num_classes": checkpoint["num_classes"],
        "input": checkpoint["input"],
        "made_from": {**origin, "url": known.url if known else None},
        "trained_on": known.source if known else None,
        "published": known.published if known else None,
        "licence": known.licence if known else None,
    }
    if fetched_from is not None:
        card["made_from"]["fetched_from"] = fetched_from
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    write_whole(card_path(path), lambda file: file.write(text.encode()))
    return card
