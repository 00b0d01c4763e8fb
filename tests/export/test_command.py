"""The command `export`, and the commands that take what it writes."""

import dataclasses
import json

import pytest
import torch

import public
from public import commands
from public.config import freeze
from public.runs.experiment import load_experiment
from public.test_scripts import benchmark, classify, detect, evaluate, export
from tests.helpers.classification_experiments import TinyClassification
from tests.helpers.experiments import TinyExperiment
from tests.helpers.lively import lively, pictures
from tests.helpers.tiny_data import write_picture


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A tiny experiment with lively weights beside it, that no training made."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("detection"))
    config = load_experiment(experiment.folder).config
    settings = dataclasses.replace(config.detector, backbone_blocks=(1, 1, 1, 1), neck_blocks=1)
    page = experiment.folder / "config.py"
    text = page.read_text().replace("(3, 6, 6, 3)", "(1, 1, 1, 1)").replace("neck_blocks=3", "neck_blocks=1")
    page.write_text(text.replace("score_threshold=0.001", "score_threshold=0.2"))
    save(experiment, lively(settings, config.input), config, settings)
    return experiment


def save(experiment, model, config, settings) -> None:
    """The weights of `model` as tiny.pth beside the experiment."""
    kind, classes = ("detector", "InputSpec") if hasattr(config, "detector") else ("classifier", "ClassificationInput")
    names = list(config.val_data.read(experiment.data_root, None).class_names)
    card = {
        "model_name": "tiny",
        "num_classes": len(names),
        "class_names": names,
        "input": freeze(config.input)[classes],
        kind: freeze(settings),
    }
    torch.save({"model": model.state_dict(), **card}, experiment.folder.parent / "tiny.pth")


def run(experiment, *words):
    """The command, as it ends in a terminal."""
    place = [
        str(experiment.folder),
        str(experiment.folder.parent / "tiny.pth"),
        "--data_root",
        str(experiment.data_root),
    ]
    output = ["-o", str(experiment.folder.parent / "exported"), "--format", "torch"]
    return commands.call(export.export, export.make_parser().parse_args([*place, *output, *words]))


@pytest.fixture(scope="module")
def written(experiment, modes):
    (written,) = run(experiment, "--evaluate")
    return written


@pytest.fixture
def file(written):
    return written.path


def test_the_file_is_proven_and_measured(file, experiment):
    entries = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert file.name == "tiny_experiment.pt2"
    assert entries["parity"]["failures"] == []
    assert entries["parity"]["pictures"] == 5  # all there are
    assert entries["parity"]["matched"] > 20
    found = entries["evaluation"]
    assert (found["metric"], found["images"]) == ("AP", 5)
    assert found["file"] == found["weights"]
    source = entries["card"]["source"]
    assert source["weights"] == "tiny.pth"
    assert len(source["sha256"]) == len(source["digest"]) == 64


def test_test_sh_takes_the_file(file, experiment, capsys):
    """The same report as of the weights, in files of its own."""
    said = []
    for weights in (file, experiment.folder.parent / "tiny.pth"):
        words = [str(experiment.folder), str(weights), "--data_root", str(experiment.data_root), "--no_report"]
        evaluate.evaluate(make_parsed(evaluate, words))
        said.append(capsys.readouterr().out)
    assert "an exported file (torch) of weights with digest" in said[0]
    ours, theirs = ([line for line in text.splitlines() if line.startswith(" Average Prec")] for text in said)
    assert ours == theirs
    assert file.with_name("tiny_experiment.pt2_val_detections.json").is_file()


def make_parsed(module, words):
    """The arguments of a command whose parser stands in its `main`."""
    parsed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "call", lambda function, arguments: parsed.append(arguments))
        patch.setattr("sys.argv", [module.__name__, *words])
        module.main()
    return parsed[0]


def test_detect_and_benchmark_take_the_file(file, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    write_picture(picture, pictures(1)[0])
    words = [str(file), str(picture), "--score_threshold", "0.2", "--output", str(tmp_path / "found")]
    results = detect.detect(detect.make_parser().parse_args(words))
    found = public.load(file)(picture, 0.2)
    assert len(found["scores"]) > 0
    assert f"{len(found['scores'])} " in results.summary()
    words = [str(file), "--image", str(picture), "--batch_sizes", "1", "--repeats", "1", "--warmup", "0"]
    timings = benchmark.benchmark(benchmark.make_parser().parse_args(words))
    assert [timing.part for timing in timings] == ["prepare", "forward", "nms", "end to end"]
    with pytest.raises(ValueError, match="--fuse belongs to networks of torch"):
        benchmark.benchmark(benchmark.make_parser().parse_args([*words, "--fuse"]))


def test_what_differs_is_rejected(experiment, written, monkeypatch):
    """The file that is there afterwards has another name."""
    folder = experiment.folder.parent / "rejected"

    def write(request, path, **_):
        folder.mkdir()
        path.write_text("a file")
        return dataclasses.replace(written, path=path, parity=dataclasses.replace(written.parity, boxes=0.06))

    monkeypatch.setattr(export, "write", write)
    with pytest.raises(
        SystemExit, match=r"tiny_experiment\.pt2\.rejected: boxes differ by 0\.06 px, allowed are 0\.05 px"
    ):
        run(experiment, "-o", str(folder))
    assert [file.name for file in folder.iterdir()] == ["tiny_experiment.pt2.rejected"]


def test_a_lower_figure_is_rejected(experiment, written, monkeypatch):
    """No loss is small enough where one of minus a point is the most that is allowed."""
    rejected = []
    monkeypatch.setattr(export, "write", lambda *_, **__: written)
    monkeypatch.setattr(export, "reject", lambda path: rejected.append(path) or path)
    with pytest.raises(SystemExit, match=r"AP fell by -?0\.000 points, --max_ap_loss allows -1"):
        run(experiment, "--evaluate", "--max_ap_loss", "-1")
    assert rejected == [written.path]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "--batch is 0; it must be a number from 1, or dynamic"),
        (["--format", "executorch", "--outputs", "detections"], "the nearest is --outputs boxes"),
        (["--format", "mnn"], "telemetry"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(experiment, words, message):
    with pytest.raises(SystemExit, match=message):
        run(experiment, *words)


def test_an_exported_file_is_not_exported_again(file, tmp_path):
    words = [str(file), "--format", "torch", "-o", str(tmp_path)]
    with pytest.raises(SystemExit, match="is an exported file already"):
        commands.call(export.export, export.make_parser().parse_args(words))


def test_a_checkpoint_alone(tmp_path, monkeypatch):
    """It is compared on drawn pictures, or on those of a folder, and has no val set."""
    from tests.helpers.tiny_detector import write_checkpoint

    write_picture(tmp_path / "photos" / "a.png", pictures(1)[0])
    place = [str(write_checkpoint(tmp_path / "tiny.pth")), "--format", "torch", "-o", str(tmp_path)]
    with pytest.raises(SystemExit, match="--evaluate needs an experiment's folder or a run"):
        commands.call(export.export, export.make_parser().parse_args([*place, "--evaluate"]))
    given = []

    def write(request, path, *, pictures, **_):
        given.append((path.name, len(pictures)))
        raise ValueError("enough")

    monkeypatch.setattr(export, "write", write)
    for words in ([], ["--pictures", str(tmp_path / "photos")]):
        with pytest.raises(SystemExit, match="enough"):
            export.export(export.make_parser().parse_args([*place, *words]))
    assert given == [("tiny.pt2", 8), ("tiny.pt2", 1)]


# --------------------------------------------------------------------------------------- a classifier


def test_a_classifier(tmp_path, modes, capsys):
    """Its logits: classify and test.sh give what they give of the weights."""
    experiment = TinyClassification.create(tmp_path)
    config = load_experiment(experiment.folder).config
    torch.manual_seed(0)
    model = config.classifier.build_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save(experiment, model, config, config.classifier)
    (written,) = run(experiment, "--evaluate", "--batch", "3")
    assert written.parity.is_lively
    assert written.card.outputs == "raw"
    assert written.card.batch == 3
    picture = tmp_path / "picture.png"
    write_picture(picture, pictures(1)[0])
    ours = public.load(written.path)
    theirs = classify.open_classifier(str(experiment.folder), str(experiment.folder.parent / "tiny.pth"), "cpu")[0]
    assert ours(picture)["names"] == theirs(picture)["names"]
    assert torch.allclose(torch.tensor(ours(picture)["scores"]), torch.tensor(theirs(picture)["scores"]), atol=1e-5)
    words = [str(experiment.folder), str(written.path), "--data_root", str(experiment.data_root), "--no_report"]
    metrics = evaluate.evaluate(make_parsed(evaluate, words))
    entries = json.loads(written.path.with_name(f"{written.path.name}.json").read_text())
    assert metrics["top1_accuracy"] == entries["evaluation"]["file"] == entries["evaluation"]["weights"]
    with pytest.raises(SystemExit, match="--outputs raw"):
        run(experiment, "--outputs", "boxes")
