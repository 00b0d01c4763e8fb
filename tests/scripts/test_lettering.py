"""Letters: every text can be drawn, literally, in a font that has its glyphs, and alike by us and by matplotlib."""

import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from public import lettering
from public.evaluation.curves import compute_curves
from public.reports import attempts, curves, data_statistics
from public.reports.evaluation_plots import draw_confusion_matrix, draw_pr_curves
from public.reports.figures import label, new_figure, save_figure
from public.reports.titles import titled
from public.test_scripts import analyze_logs
from tests.evaluation.test_evaluation_report import many_classes
from tests.helpers.made_runs import train_line, write_run

LITERAL = ("$5_$10", "$x^$", r"\$", r"$\frac{1}{2}$", "a_b^c", r"\alpha", "%d", "{x}", "_hidden", "__", "100 %", "")
FOREIGN = ("猫", "犬", "고양이", "кот", "γάτα", "חתול", "قط")
LACKING = ("แมว", "बिल्ली", "🐱", "a\nb", "a\tb", "\x1b[31m", "caf\udce9", "\ud800", "\U0010ffff")


def drawn_by_us(text):
    image = np.full((40, 400, 3), 255, dtype=np.uint8)
    lettering.write(image, text, (5, 25), 12, (0, 0, 0))
    return image


def drawn_by_matplotlib(text, tmp_path):
    figure = new_figure(4, 0.4)
    figure.text(0.02, 0.5, text)
    save_figure(tmp_path / "text.png", figure)
    return cv2.imread(str(tmp_path / "text.png"))


@pytest.mark.parametrize("draw", ["ours", "matplotlib"])
def test_different_texts_look_different(draw, tmp_path):
    """A font that lacks letters has one sign for all of them."""
    texts = [text for text in (*LITERAL, *FOREIGN, *LACKING) if text]
    pictures = [drawn_by_us(text) if draw == "ours" else drawn_by_matplotlib(text, tmp_path) for text in texts]
    assert len({picture.tobytes() for picture in pictures}) == len(texts)
    assert all((picture < 200).any() for picture in pictures)


def test_what_is_drawn():
    assert [lettering.drawable(text) for text in (*LITERAL, *FOREIGN)] == [*LITERAL, *FOREIGN]
    drawn = ["\\u0e41\\u0e21\\u0e27", "\\u092c\\u093f\\u0932\\u094d\\u0932\\u0940", "\\U0001f431", "a\\nb", "a\\tb",
             "\\u001b[31m", "caf\\xe9", "\\ud800", "\\U0010ffff"]  # fmt: skip
    assert [lettering.drawable(text) for text in LACKING] == drawn
    assert lettering.drawable("a\u200bb\u200d\ufe0f") == "ab"
    assert len(lettering.drawable("a" * 10**6)) < 10**4


def test_widths_are_those_of_what_is_drawn():
    for text in (*FOREIGN, "cat", "$5_$10"):
        dark = (drawn_by_us(text) < 128).any(axis=(0, 2))
        width = np.flatnonzero(dark).max() - 5 + 1
        assert width <= lettering.text_width(text, 12) + 1
        assert width >= 0.7 * lettering.text_width(text, 12)


def test_letters_of_matplotlib_lie_where_it_reserves_room(tmp_path, figures):
    """At the corners, turned, and in bold: within the box that matplotlib lays figures out by."""
    figure = new_figure(3, 3)
    places = [(0.1, 0.1, 0), (0.3, 0.5, 90), (0.6, 0.6, 0)]
    texts = [figure.text(x, y, "猫 gHq", rotation=r, fontweight="bold" if r else None) for x, y, r in places]
    save_figure(tmp_path / "a.png", figure)
    dark = (cv2.imread(str(tmp_path / "a.png")) < 160).any(axis=2)
    for text in texts:
        box = text.get_window_extent()
        left, right = int(box.x0) - 2, int(box.x1) + 3
        top, bottom = int(300 - box.y1) - 3, int(300 - box.y0) + 4
        inside = dark[top:bottom, left:right]
        assert inside.mean() > 0.1
        dark[top:bottom, left:right] = False
    assert not dark.any()


def test_no_name_is_taken_for_an_instruction(tmp_path, figures):
    """Of every figure that shows names: no TeX, nothing hidden in a legend, no warning of a missing glyph."""
    names = [*LITERAL[:-1], *FOREIGN, *LACKING]
    annotations, detections = many_classes(10)
    annotations.class_names = tuple(names[:9]) + ("c",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_pr_curves(tmp_path / "pr.png", compute_curves(annotations, detections))
        draw_confusion_matrix(tmp_path / "m.png", np.eye(len(names) + 1, dtype=int), names, "$sub_title^$")
        counted = SimpleNamespace(class_names=names, labels=np.arange(len(names)))
        data_statistics.draw_classes({"$train$": counted}, tmp_path / "c.png")
        run = write_run(tmp_path / "runs" / "_$a$", [train_line(1, 0.5, **{"$x^$": 1.0, "_loss": 2.0})])
        curves.draw_curves(run / "metrics.jsonl", tmp_path / "curves.png")
        record = analyze_logs.read_run(run)
        analyze_logs.draw(tmp_path / "l.png", [record], [run.name], ["loss", "$x^$"], x="step", is_smooth=False)
    legend = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert any("_hidden" in text for text in legend)
    ticks = [tick.get_text() for tick in figures[1].axes[0].get_yticklabels()]
    assert ticks[0] == "$5_$10"
    assert "_loss" in [text.get_text().lstrip("\u200b") for text in figures[3].axes[1].get_legend().get_texts()]
    assert len(figures[4].legends[0].get_texts()) == 1
    for figure in figures:
        assert not [t for t in figure.findobj(lambda a: hasattr(a, "get_text")) if "mathdefault" in t.get_text()]


def test_a_users_own_settings_of_matplotlib_do_not_count(tmp_path):
    import matplotlib

    plain = drawn_by_matplotlib("$5_$10", tmp_path)
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        assert np.array_equal(drawn_by_matplotlib("$5_$10", tmp_path), plain)
        assert matplotlib.rcParams["text.usetex"]


def test_labels():
    assert label("cat") == "cat"
    assert label("a\nb\udce9") == "a\\nb\\xe9"
    assert lettering.drawable(label("_x")) == "_x"


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (2, 100000)])
def test_titles_over_strips(shape):
    picture = titled(np.zeros((*shape, 3), np.uint8), ["猫", "a" * 500, "caf\udce9"])
    assert max(picture.shape) < 3000


def test_a_report_that_fails_is_a_line():
    notes = []
    assert attempts.attempted(notes, "the sum", sum, [1, 2]) == 3
    assert attempts.attempted(notes, "the sum", sum, ["a\nb"]) is None
    assert attempts.attempted(notes, "a picture", lambda: 1 / 0) is None
    assert [len(note.splitlines()) for note in notes] == [1, 1]
    assert notes[1] == "a picture failed, all else goes on without it: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("limits", [(1, 8), (0.02, 0.5), (3, 4000), (1, 10**7)])
def test_numbers_of_logarithmic_axes_are_written_plainly(tmp_path, figures, limits):
    """Of axes and of the scale beside a picture: matplotlib's own are TeX, `$\\mathdefault{10^{1}}$`."""
    from matplotlib.colors import LogNorm

    figure = new_figure(4, 4)
    axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    figure.colorbar(axes.scatter([1, 2], [1, 2], c=limits, norm=LogNorm(*limits)), ax=axes)
    save_figure(tmp_path / "a.png", figure)
    texts = [
        text.get_text()
        for part in figure.axes
        for axis in (part.xaxis, part.yaxis)
        for text in axis.get_ticklabels(which="both")
    ]
    numbers = [float(text.replace("\u2212", "-")) for text in texts if text]
    assert len(numbers) >= 3
    assert set(numbers) & {number for number in numbers if limits[0] <= number <= limits[1]}
