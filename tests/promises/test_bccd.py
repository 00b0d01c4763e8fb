"""Real data: the experiment on blood cells takes its first steps and is evaluated, where the data lie beside the project."""

from public.runs.experiment import load_experiment
from tests.helpers import forked_training
from tests.helpers.experiments import REPOSITORY, TinyExperiment, read_manifest, read_metrics


def test_bccd_takes_two_steps(shared, tmp_path):
    """The recipe, in float32, on 16 real images; the two boxes without area among them are dropped and listed."""
    folder = tmp_path / "ppyoloe_xs_bccd"
    folder.mkdir()
    for name in ("config.py", "train.py"):
        source = REPOSITORY / "detection_experiments" / "ppyoloe_xs_bccd" / name
        (folder / name).write_bytes(source.read_bytes())
    experiment = TinyExperiment(folder, shared / "data" / "bccd_voc")
    flags = ("--max_steps", "2", "--limit_images", "16", "--print_interval", "1", "--precision", "float32")
    log = forked_training.train(experiment, *flags)
    assert "train: first 16 images of VOC BCCD/train: 16 images" in log
    assert "1 degenerate boxes dropped" in log
    (run,) = experiment.runs
    bad = (run / "bad_boxes.txt").read_text()
    assert "BloodImage_00343.xml" in bad
    assert "BloodImage_00338.xml" in bad
    losses = [line["loss"] for line in read_metrics(run) if line["kind"] == "train"]
    assert len(losses) == 2
    assert read_manifest(run)["identity"]["limit_images"] == 16
    assert load_experiment(run).config.detector.num_classes == 3
