"""sha256 over the bytes of many pictures, remembered, so that only what has changed is read again.

The memory is a small database in the repository's .cache folder, never beside the data.  An entry counts as long as path,
size and time of change (in nanoseconds) of its file are the same; deleting the database loses nothing but time.
"""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MEMORY = Path(__file__).resolve().parents[2] / ".cache" / "picture_digests.sqlite"
MISSING = "missing"  # what a picture that is not there counts as
CHUNK = 4 * 2**20


def content_digest(paths: Sequence[str], *, memory: Path | None = None) -> str:
    """sha256 (hex) over the sha256 of each file, in order; where the files lie does not matter.

    Args:
        paths: of the files; one that is not there counts as MISSING (the names' fingerprint has refused or allowed it).
        memory: the database; None: MEMORY.

    Raises:
        OSError: a file cannot be read, naming it.
    """
    memory = memory or MEMORY
    memory.parent.mkdir(parents=True, exist_ok=True)
    keys = [_key(path) for path in paths]
    with sqlite3.connect(memory, timeout=60) as database:
        database.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, sha256 TEXT)")
        known = _look_up(database, [key for key in keys if key])
        unknown = [(key, path) for key, path in zip(keys, paths) if key and key not in known]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            known |= dict(zip((key for key, _ in unknown), pool.map(_sha256, (path for _, path in unknown))))
        database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", [(key, known[key]) for key, _ in unknown])
    database.close()
    total = hashlib.sha256()
    for key in keys:
        total.update((known[key] if key else MISSING).encode() + b"\n")
    return total.hexdigest()


def _key(path: str) -> bytes | None:
    """What a file is remembered by; None where it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return os.fsencode(f"{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}")


def _look_up(database: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, str]:
    found = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        found |= dict(database.execute(f"SELECT key, sha256 FROM digests WHERE key IN ({marks})", part).fetchall())
    return found


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
