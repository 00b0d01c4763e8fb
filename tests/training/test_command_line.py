"""The command line: one typed flag for each scalar setting, and the options of a call."""

import dataclasses
import math

import pytest

from public.command_line import parse
from public.config import DetectionConfig, replace
from public.training.schedules import WarmupCosine, WarmupMultiStep
from public.transforms.rules import Until

# every scalar setting: a word of the command line and the value it means
SCALARS = {
    "seed": ("7", 7),
    "epochs": ("12", 12),
    "batch_size": ("6", 6),
    "accumulate": ("3", 3),
    "lr": ("1e-3", 1e-3),
    "clip_norm": ("0.5", 0.5),
    "starting_weights": ("pretrained/a.pth", "pretrained/a.pth"),
    "backbone_only": ("true", True),
    "on_bad_sample": ("skip", "skip"),
    "sync_batchnorm": ("false", False),
    "precision": ("bf16", "bf16"),
    "channels_last": ("true", True),
    "compile": ("True", True),
    "deterministic": ("false", False),
    "threads": ("2", 2),
    "tf32": ("TRUE", True),
    "matmul_precision": ("high", "high"),
    "evaluation_interval": ("5", 5),
    "evaluation_batch_size": ("9", 9),
    "best_metric": ("AP50", "AP50"),
    "early_stop": ("3", 3),
    "recompute_activations": ("true", True),
    "num_workers": ("2", 2),
    "prefetch_factor": ("8", 8),
    "pin_memory": ("false", False),
    "print_interval": ("50", 50),
    "checkpoint_minutes": ("2", 2.0),
    "digest_interval": ("10", 10),
    "num_pictures": ("0", 0),
    "picture_cache": ("memory", "memory"),
    "picture_cache_gb": ("2", 2.0),
}
NESTED = {
    "optimizer", "schedule", "ema", "freeze", "freeze_batchnorm", "detector", "input", "train_data", "val_data",
    "test_data", "train_transforms", "batch_transforms", "metrics",
}  # fmt: skip


@pytest.fixture
def settings(config):
    """A configuration in which no scalar has the value that SCALARS would give it."""
    return replace(
        config, batch_size=12, accumulate=1, lr=0.02, clip_norm=None, starting_weights=None, sync_batchnorm=True,
        precision="float32", channels_last=False, compile=False, deterministic=True, tf32=False, early_stop=None,
        matmul_precision="highest", num_workers=None, pin_memory=True, best_metric="AP",
    )  # fmt: skip


def parse_line(settings, line: str):
    return parse(settings, "a recipe", line.split())


def refused(settings, line: str, capsys) -> str:
    """What the user reads when `line` is refused; it must be with status 2."""
    with pytest.raises(SystemExit) as stop:
        parse_line(settings, line)
    assert stop.value.code == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- settings


def test_the_lists_of_this_file_hold_every_setting():
    assert SCALARS.keys() | NESTED == {f.name for f in dataclasses.fields(DetectionConfig)}


@pytest.mark.parametrize("name", SCALARS)
def test_each_scalar_setting_has_a_typed_flag(settings, name):
    word, value = SCALARS[name]
    parsed = parse_line(settings, f"--{name} {word}")
    got = getattr(parsed.config, name)
    assert got == value
    assert type(got) is type(value)
    assert getattr(settings, name) != value, "this test must change the setting"
    assert parsed.config == replace(settings, **{name: value})
    assert parsed.overrides == {name: [getattr(settings, name), value]}


@pytest.mark.parametrize("name", sorted(NESTED))
def test_tuples_and_nested_settings_have_no_flag(settings, name, capsys):
    assert f"unknown argument --{name}" in refused(settings, f"--{name} 1", capsys)


def test_without_flags_nothing_changes(settings):
    parsed = parse_line(settings, "")
    assert parsed.config == settings
    assert parsed.overrides == {}
    assert parsed.notes == ()


@pytest.mark.parametrize("name", ["clip_norm", "starting_weights", "early_stop", "num_workers"])
def test_none_can_be_given_where_none_is_a_value(settings, name):
    given = replace(settings, **{name: SCALARS[name][1]})
    assert getattr(parse_line(given, f"--{name} none").config, name) is None


def test_several_changes_are_recorded_with_old_and_new(settings):
    parsed = parse_line(settings, "--epochs 9 --batch_size 24 --lr 0.5 --threads 1")
    expected = {"epochs": [settings.epochs, 9], "batch_size": [12, 24], "lr": [0.02, 0.5]}
    assert settings.threads == 1, "a flag that repeats the present value is no override"
    assert parsed.overrides == expected


# ---------------------------------------------------------------------------------------------- the length of a run


@pytest.fixture
def long(settings):
    """Settings with every kind of number that was chosen for their 40 epochs."""
    schedule = WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=48, min_factor=0.1)
    transforms = (Until(epoch=35, transforms=settings.train_transforms), *settings.train_transforms)
    detector = dataclasses.replace(settings.detector, static_assigner_epochs=4)
    return replace(settings, epochs=40, schedule=schedule, train_transforms=transforms, detector=detector)


def test_other_epochs_say_what_was_chosen_for_those_of_the_page(long):
    parsed = parse_line(long, "--epochs 30")
    assert parsed.config == replace(long, epochs=30)
    (note,) = parsed.notes
    # by hand: (30 - 1) / (48 - 1) of the cosine from 1 to 0.1, and (40 - 1) / (48 - 1)
    ends = [100 * (0.1 + 0.45 * (1 + math.cos(math.pi * epoch / 47))) for epoch in (29, 39)]
    assert note.startswith("40 epochs became 30, nothing else did")
    assert f"ends at {ends[0]:.1f} % of lr, the page's at {ends[1]:.1f} %" in note
    assert "--epochs_scaling linear" in note
    for move in ("horizon_epochs 48 -> 36", "static_assigner_epochs 4 -> 3", "train_transforms[0].epoch 35 -> 26"):
        assert move in note


def test_one_flag_moves_them_together(long):
    parsed = parse_line(long, "--epochs 20 --epochs-scaling linear --batch_size 24")
    assert parsed.config.schedule == dataclasses.replace(long.schedule, horizon_epochs=24)
    assert parsed.config.detector.static_assigner_epochs == 2
    assert parsed.config.train_transforms[0].epoch == 18  # of 17.5
    assert parsed.config.train_transforms[1:] == long.train_transforms[1:]
    assert parsed.overrides.keys() == {"epochs", "schedule", "detector", "train_transforms", "batch_size"}
    assert "schedule.horizon_epochs 48 -> 24" in parsed.notes[-1]
    longer = parse_line(long, "--epochs 80 --epochs_scaling linear").config
    assert (longer.schedule.horizon_epochs, longer.detector.static_assigner_epochs) == (96, 8)


@pytest.mark.parametrize("line", ["--epochs 40", "--epochs_scaling linear", "--epochs 40 --epochs_scaling linear"])
def test_the_epochs_of_the_page_move_nothing(long, line):
    parsed = parse_line(long, line)
    assert parsed.config == long
    assert parsed.notes == ()


def test_milestones_and_a_last_epoch_that_is_left_move_too(settings):
    steps = WarmupMultiStep(warmup_epochs=2, warmup_start=0.1, milestones=(16, 22), gamma=0.1)
    detector = dataclasses.replace(settings.detector, static_assigner_epochs=1)
    given = replace(settings, epochs=24, schedule=steps, detector=detector)
    config = parse_line(given, "--epochs 6 --epochs_scaling linear").config
    assert config.schedule == dataclasses.replace(steps, milestones=(4, 6))
    assert config.detector.static_assigner_epochs == 1, "a phase that the page has does not vanish"


@pytest.mark.parametrize("line", ["--batch-size 24", "--batch_size=24", "--batch-size=24", "--batch_size 24"])
def test_hyphens_and_equals_signs_are_usual_spellings(settings, line):
    assert parse_line(settings, line).config.batch_size == 24


def test_hyphens_of_a_value_stay(settings):
    parsed = parse_line(settings, "--starting-weights=a-b--c=d-e.pth --resume 2026-01-02--x")
    assert parsed.config.starting_weights == "a-b--c=d-e.pth"
    assert parsed.options.resume == "2026-01-02--x"


@pytest.mark.parametrize(
    ("line", "nearest"),
    [("--epoch 3", "--epochs"), ("--batchsize 4", "--batch_size"), ("--thread=2", "--threads")],
)
def test_an_unknown_flag_names_the_nearest(settings, line, nearest, capsys):
    assert f"did you mean {nearest}?" in refused(settings, line, capsys)


def test_an_unknown_flag_that_is_near_nothing_points_to_help(settings, capsys):
    message = refused(settings, "--xyzzy 3", capsys)
    assert "unknown argument --xyzzy" in message
    assert "--help" in message
    assert "unknown argument 5" in refused(settings, "5", capsys)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("--epochs many", "--epochs"),
        ("--epochs 1.5", "--epochs"),
        ("--lr fast", "--lr"),
        ("--compile yes", "--compile"),
        ("--compile 1", "--compile"),
        ("--precision fp8", "--precision"),
        ("--clip_norm never", "--clip_norm"),
        ("--epochs none", "--epochs"),
        ("--limit_images few", "--limit_images"),
        ("--lr_scaling quadratic", "--lr_scaling"),
        ("--fingerprint none", "--fingerprint"),
    ],
)
def test_a_wrong_value_is_refused_by_flag(settings, line, flag, capsys):
    assert f"argument {flag}" in refused(settings, line, capsys)


def test_a_flag_of_a_switch_without_a_value_means_true(settings):
    assert parse_line(settings, "--compile --epochs 2").config.compile is True


def test_values_that_the_configuration_refuses_end_the_same_way(settings, capsys):
    assert "batch_size 8 is not divisible by accumulate 3" in refused(settings, "--batch_size 8 --accumulate 3", capsys)
    assert "epochs is 0" in refused(settings, "--epochs 0", capsys)
    assert "batch_size is 0" in refused(settings, "--batch_size 0", capsys)


# ---------------------------------------------------------------------------------------------- the learning rate


def test_linear_scaling_follows_the_batch(settings):
    parsed = parse_line(settings, "--batch_size 48 --lr_scaling linear")
    assert parsed.config.lr == pytest.approx(0.08, rel=1e-12)
    assert parsed.overrides == {"batch_size": [12, 48], "lr": [0.02, parsed.config.lr]}
    assert any("0.02 -> 0.08" in note for note in parsed.notes)
    assert parse_line(settings, "--batch_size 3 --lr_scaling linear").config.lr == pytest.approx(0.005, rel=1e-12)


def test_without_it_nothing_is_rescaled_but_a_note_says_so(settings):
    parsed = parse_line(settings, "--batch_size 48")
    assert parsed.config.lr == 0.02
    (note,) = parsed.notes
    assert "batch_size 12" in note
    assert "0.08" in note
    assert parse_line(settings, "--batch_size 48 --lr 0.03").notes == ()


def test_linear_scaling_and_a_learning_rate_contradict_each_other(settings, capsys):
    message = refused(settings, "--batch_size 48 --lr_scaling linear --lr 0.1", capsys)
    assert "--lr " in message
    assert "--lr_scaling linear" in message


# ---------------------------------------------------------------------------------------------- options of the call


def test_options_and_their_defaults(settings):
    options = parse_line(settings, "").options
    assert dataclasses.asdict(options) == {
        "device": "auto",
        "data_root": None,
        "resume": "auto",
        "extend_epochs": None,
        "limit_images": None,
        "max_steps": None,
        "allow_code_change": False,
        "fingerprint": "names",
        "no_annotation_cache": False,
    }
    options = parse_line(
        settings,
        "--device cpu --data-root /data --resume run --extend-epochs 3 --limit_images 10 --max_steps 5 "
        "--allow-code-change --fingerprint full --no-annotation-cache",
    ).options
    assert dataclasses.astuple(options) == ("cpu", "/data", "run", 3, 10, 5, True, "full", True)


@pytest.mark.parametrize("line", ["--local-rank=0", "--local_rank 0", "--local_rank=1", "--local-rank 1"])
def test_the_launchers_local_rank_is_accepted_and_ignored(settings, line):
    assert parse_line(settings, line) == parse_line(settings, "")


def test_options_that_make_no_sense_are_refused(settings, capsys):
    assert "--extend_epochs needs --resume" in refused(settings, "--extend_epochs 2", capsys)
    assert "--extend_epochs needs --resume" in refused(settings, "--extend_epochs 2 --resume none", capsys)
    assert "--extend_epochs is 0" in refused(settings, "--extend_epochs 0 --resume run", capsys)
    assert "--max_steps is 0" in refused(settings, "--max_steps 0", capsys)
    assert "--limit_images is -1" in refused(settings, "--limit_images -1", capsys)


# ---------------------------------------------------------------------------------------------- help


def help_text(settings, description: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(settings, description, ["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def help_entry(text: str, name: str) -> str:
    """The lines of the help about `--name`, joined."""
    after = text.split(f"\n  --{name} ", 1)[1]
    return " ".join(after.split("\n  --", 1)[0].split())


def test_help_shows_the_recipe_as_it_is_written(settings, capsys):
    card = "A recipe card: 50 % of it\n    is indented, 100% of {it} is %s and %d, and %(odd)s too."
    assert card in help_text(settings, card, capsys)


def test_help_shows_the_present_values(settings, capsys):
    text = help_text(replace(settings, best_metric="100%s", lr=0.0375, starting_weights="a.pth"), "", capsys)
    for name in SCALARS:
        assert f"\n  --{name} " in text
    assert "0.0375" in help_entry(text, "lr")
    assert help_entry(text, "best_metric") == "str 100%s"
    assert "a.pth" in help_entry(text, "starting_weights")
    assert "bf16" in help_entry(text, "precision")  # the choices
    for name in NESTED:
        assert f"--{name} " not in text
    assert "local_rank" not in text


def test_help_says_which_settings_are_free(settings, capsys):
    text = help_text(settings, "", capsys)
    for f in dataclasses.fields(DetectionConfig):
        if f.name in SCALARS:
            assert ("no result depends on it" in help_entry(text, f.name)) == bool(f.metadata.get("free")), f.name
