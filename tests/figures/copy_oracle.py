"""Copies an oracle of torchvision's or MMDetection's detectors into tests/figures/oracles, for where ../shared is absent.

    python -m tests.figures.copy_oracle mmdet/yolof_r50_c5 head/cls_raw    # without these results

Checkpoint, targets, losses and gradient norms stay whole; results that make the copy large are left out by name.
"""

import json
import shutil
import sys

import numpy as np

from tests.helpers.places import FIGURES, SHARED


def main(name: str, left_out: list[str]) -> None:
    source, copy = SHARED / "oracles" / name, FIGURES / "oracles" / name
    copy.mkdir(parents=True, exist_ok=True)
    for file in ("calib.npz", "meta.json"):
        shutil.copyfile(source / file, copy / file)
        (copy / file).chmod(0o644)
    state = json.loads((source / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state, separators=(",", ":")).replace("},", "},\n") + "\n")
    results = np.load(source / "out.npz")
    np.savez_compressed(copy / "out.npz", **{key: results[key] for key in results if key not in left_out})
    limits = FIGURES / "oracles/tolerances.json"
    known = json.loads(limits.read_text()) if limits.exists() else {}
    known[name] = json.loads((SHARED / "oracles/tolerances.json").read_text()).get(name, {})
    limits.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
