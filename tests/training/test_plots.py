"""The curves of a run: what is drawn, and files of runs that are young, broken off or diverged."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from public.reports.curves import Redrawing, draw_curves, smoothed
from public.runs.metrics import numbers
from public.runs.records import read_run
from tests.helpers.places import REPOSITORY


def train(step, loss, **terms):
    losses = terms or {"loss_cls": loss * 0.75, "loss_iou": loss * 0.25}
    return {"kind": "train", "step": step, "epoch": (step - 1) / 10, "lr": 0.01 * step, "loss": loss, "losses": losses}


def evaluation(epoch, **metrics):
    return {"kind": "eval", "step": epoch * 10, "epoch": epoch, "metrics": metrics}


def draw(folder, lines, tail="", best_metric=None):
    """Draws a metrics.jsonl of these lines; returns the picture, RGB."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png", best_metric)
    return cv2.imread(str(folder / "curves.png"))


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def curve(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line.get_xdata(), line.get_ydata()


def texts(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_a_whole_run(tmp_path, figures):
    losses = 3 / np.arange(1, 41)
    lines = [train(step, loss) for step, loss in enumerate(losses.tolist(), start=1)]
    lines += [
        evaluation(epoch, AP=ap, AP50=ap + 0.2, class_AP={"cat": 1}) for epoch, ap in enumerate([0.1, 0.3, 0.2], 1)
    ]
    picture = draw(tmp_path, [{"kind": "start", "anything": 1}, *lines])

    assert picture.shape == (750, 1200, 3)
    axes = panels(figures[0])
    raw = axes["loss"].lines[0]
    np.testing.assert_allclose(raw.get_xdata(), np.arange(40) / 10)
    np.testing.assert_allclose(raw.get_ydata(), losses)
    np.testing.assert_allclose(curve(axes["loss"], "total")[1], losses)  # 40 values: an average over one
    np.testing.assert_allclose(curve(axes["loss terms"], "loss_iou")[1], losses / 4)
    np.testing.assert_allclose(axes["learning rate"].lines[0].get_ydata(), 0.01 * np.arange(1, 41))
    np.testing.assert_allclose(curve(axes["average precision"], "AP"), [[1, 2, 3], [0.1, 0.3, 0.2]])
    np.testing.assert_allclose(curve(axes["average precision"], "AP50")[1], [0.3, 0.5, 0.4])


def test_the_best_evaluation_is_marked(tmp_path, figures):
    draw(tmp_path, [evaluation(1, AP=None), evaluation(2, AP=0.25, AP50=0.5), evaluation(3, AP=0.2, AP50=0.6)])
    x, y = curve(panels(figures[0])["average precision"], "best AP 0.2500, epoch 2")
    assert (np.ravel(x).tolist(), np.ravel(y).tolist()) == ([2.0], [0.25])


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("AP", "best AP 0.3000, epoch 1"),
        ("AP50", "best AP50 0.7000, epoch 2"),
        ("AP_small", "best AP_small 0.1250, epoch 3"),
        ("AP90", "best AP 0.3000, epoch 1"),
    ],
)
def test_the_star_marks_the_best_by_the_metric_that_chooses_the_weights(tmp_path, figures, metric, label):
    """Also one that is not drawn otherwise; of one that was never measured (AP90) the first curve's best."""
    values = [(0.3, 0.5, None), (0.2, 0.7, 0.0), (0.1, 0.6, 0.125)]
    lines = [evaluation(i, AP=ap, AP50=ap50, AP_small=small) for i, (ap, ap50, small) in enumerate(values, 1)]
    draw(tmp_path, lines, best_metric=metric)
    axes = panels(figures[0])["average precision"]
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert star.get_label() == label
    of_curve = next(line for line in axes.lines if line.get_label() == label.split()[1])
    assert star.get_color() == of_curve.get_color()


def test_the_star_of_an_accuracy_marks_the_lowest_error(tmp_path, figures):
    lines = [evaluation(1, top1_error=40.0, top5_error=9.0), evaluation(2, top1_error=30.0, top5_error=12.0)]
    draw(tmp_path, lines, best_metric="top5_accuracy")
    assert curve(panels(figures[0])["errors in percent"], "best top5_error 9.0000, epoch 1")


def test_a_run_with_the_voc_metric_only(tmp_path, figures):
    draw(tmp_path, [evaluation(1, voc_AP50=0.25), evaluation(2, voc_AP50=0.75)])
    axes = panels(figures[0])["average precision"]
    np.testing.assert_allclose(curve(axes, "voc_AP50")[1], [0.25, 0.75])
    assert curve(axes, "best voc_AP50 0.7500, epoch 2")


@pytest.mark.parametrize("lines", [[], [train(1, 2.0)], [train(1, 2.0), train(2, 1.0)], [evaluation(1, AP=0.5)]])
def test_young_runs(lines, tmp_path, figures):
    assert draw(tmp_path, lines) is not None
    kinds = {line["kind"] for line in lines}
    axes = panels(figures[0])
    assert ("no loss logged" in texts(axes["loss"])) == ("train" not in kinds)
    assert ("no evaluation logged" in texts(axes["average precision"])) == ("eval" not in kinds)


def test_a_single_value_can_be_seen(tmp_path):
    """One training line: the picture has pixels of the colours of both terms, not only axes."""
    picture = draw(tmp_path, [train(1, 2.0)])
    blue, vermillion = (0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)  # BGR of the first two colours
    upper_right_without_legend = picture[:375, 600:1050]
    for color in (blue, vermillion):
        assert (upper_right_without_legend == color).all(axis=-1).sum() > 10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_values_that_are_no_number_leave_a_gap_and_are_counted(value, tmp_path, figures):
    lines = [train(step, 1.0) for step in range(1, 11)]
    lines[4] |= {"loss": value}
    draw(tmp_path, lines)
    axes = panels(figures[0])["loss"]
    ys = curve(axes, "total")[1]
    assert np.flatnonzero(np.isnan(ys)).tolist() == [4]
    assert "1 not finite" in texts(axes)


def test_nothing_but_nan(tmp_path, figures):
    draw(tmp_path, [train(1, float("nan"))])
    assert "no finite loss" in texts(panels(figures[0])["loss"])


def test_a_spike_does_not_press_the_curve_flat_and_is_told(tmp_path, figures):
    lines = [train(step, 2.0) for step in range(1, 201)]
    lines[120] |= {"loss": 1e6}
    draw(tmp_path, lines)
    axes = panels(figures[0])["loss"]
    assert axes.get_ylim()[1] < 10
    assert "1 above 3, up to 1e+06" in texts(axes)
    assert np.nanmax(curve(axes, "total")[1]) < 2.5


def test_terms_that_come_and_go(tmp_path, figures):
    draw(tmp_path, [train(1, 2.0, loss_cls=1.0), train(2, 2.0, loss_cls=1.5, loss_aux=0.5)])
    axes = panels(figures[0])["loss terms"]
    assert np.isnan(curve(axes, "loss_aux")[1]).tolist() == [True, False]
    assert curve(axes, "loss_cls")[1].tolist() == [1.0, 1.5]


def test_a_last_line_that_was_broken_off_is_passed_over(tmp_path, figures):
    draw(tmp_path, [train(1, 2.0), train(2, 1.0)], tail='{"kind": "train", "st')
    assert len(panels(figures[0])["loss"].lines[0].get_xdata()) == 2


def test_a_broken_line_elsewhere_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not JSON"):
        draw(tmp_path, [train(1, 2.0)], tail='{"kind": "tr\n' + json.dumps(train(3, 1.0)) + "\n")
    assert not (tmp_path / "curves.png").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_smoothing_keeps_lines_and_averages_noise():
    n = 500
    ramp = np.arange(n, dtype=float)
    np.testing.assert_allclose(smoothed(np.full(n, 3.0)), 3.0)  # also at the ends
    np.testing.assert_allclose(smoothed(ramp)[10:-10], ramp[10:-10])
    impulse = np.zeros(n)
    impulse[250] = 21.0
    np.testing.assert_allclose(smoothed(impulse)[238:263], [0, 0, *[1.0] * 21, 0, 0])  # 21 is the window of 500 values
    ramp[100] = np.nan
    result = smoothed(ramp)
    assert np.flatnonzero(np.isnan(result)).tolist() == [100]
    assert result[101] == pytest.approx((sum(range(91, 112)) - 100) / 20)


def test_pyplot_is_left_alone():
    """A user's own figures and backend are none of our business: drawing does not even import pyplot."""
    root = REPOSITORY
    code = (
        "import sys, tempfile, pathlib\n"
        "from public.reports.curves import draw_curves\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "(folder / 'm.jsonl').write_text('')\n"
        "draw_curves(folder / 'm.jsonl', folder / 'c.png')\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]


def test_numbers_larger_than_any_float(tmp_path):
    """A whole number of 400 digits is infinite, as 1e400 is; neither ends a drawing or a table."""
    lines = [
        train(1, 10**400, a=10**400),
        train(2, -(10**400), a=0.5),
        train(3, 1.0),
        evaluation(1, AP=10**400),
        evaluation(2, AP=0.5),
    ]
    assert numbers([{"a": 10**400}, {"a": -(10**400)}, {"a": None}, {}], "a").tolist()[:2] == [np.inf, -np.inf]
    assert draw(tmp_path, lines) is not None
    record = read_run(tmp_path)
    assert record.curve("loss", "step")[1].tolist() == [np.inf, -np.inf, 1.0]


# ---------------------------------------------------------------------------------------------- how often it is drawn


class Drawings:
    """A clock that only moves by hand, and a drawing that takes two seconds of it."""

    def __init__(self):
        self.now, self.moments = 100.0, []
        self.redrawing = Redrawing(self.draw, clock=lambda: self.now)

    def draw(self):
        self.moments.append(self.now)
        self.now += 2

    def after(self, seconds):
        """`seconds` later there is something new; the moments of the drawings so far."""
        self.now += seconds
        self.redrawing.changed()
        return self.moments


def test_a_picture_is_drawn_again_when_fifty_times_its_cost_have_passed():
    drawings = Drawings()
    assert drawings.after(1) == [], "the run is young"
    assert drawings.after(25) == [126]
    assert drawings.after(99) == [126], "it took two seconds, until 128"
    assert drawings.after(2) == [126, 229]


def test_at_the_end_what_is_not_drawn_yet_is_drawn_and_nothing_else():
    drawings = Drawings()
    drawings.redrawing.finish()
    assert drawings.moments == [], "nothing has changed"
    assert drawings.after(1) == []
    drawings.redrawing.finish()
    drawings.redrawing.finish()
    assert drawings.moments == [101]
