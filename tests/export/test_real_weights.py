"""Released weights as files: what the originals find in photographs is found by the formats.

The whole of it, AP included and every format, is `python -m benchmarks.real_weights`; its table stands in docs/export.md.
"""

from argparse import Namespace

import pytest

from benchmarks import real_weights
from tests.export.test_files import needs


@pytest.mark.slow
def test_a_file_finds_what_the_original_finds(shared, tmp_path, modes):
    """Over 0.3: within 1 pixel and 0.005 in score, and no others; AP of some photographs is the weights'."""
    needs("ncnn")
    options = Namespace(shared=shared, format=["ncnn"], precision="float32", limit_images=10)
    (written,) = real_weights.exported("yolox_nano_coco", options, tmp_path)
    found = real_weights.compare(written.path, "yolox_nano_coco", shared)
    assert found.matched == found.expected > 15
    assert real_weights.problems_of(written, found) == []
    for change in ({"matched": 3}, {"others": 1}, {"boxes": 1.1}, {"scores": 0.006}):
        assert real_weights.problems_of(written, found._replace(**change))
    written.measured["evaluation"]["file"] -= 0.001
    assert real_weights.problems_of(written, found)
