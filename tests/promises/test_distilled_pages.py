"""The pages of students and teachers: the student of another page, the teacher of its weights, the source's numbers."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

from public.families import PUBLISHED
from public.families.distilled import Distilled
from public.files import REPOSITORY
from public.models.backbones import NETWORKS
from public.runs.experiment import load_experiment
from public.runs.starting_experiment import named_experiment
from public.weights.known import by_name

PAGES = {  # the page -> the page of its student alone
    "detection_experiments/ppyoloe_plus_s_voc_distilled_from_l": "ppyoloe_plus_s_voc",
    "detection_experiments/ppyoloe_plus_m_coco_distilled_from_l": "ppyoloe_plus_m_coco",
    "detection_experiments/ppyoloe_plus_l_coco_distilled_from_x": "ppyoloe_plus_l_coco",
    "detection_experiments/picodet_s_416_coco_distilled_from_m": "picodet_s_416_coco",
    "detection_experiments/resnet50_retinanet_coco_distilled_from_resnet101": "resnet50_retinanet_coco_resize667",
    "detection_experiments/ppyoloe_xs_shapes_distilled": "ppyoloe_xs_shapes",
    "detection_experiments/ppyoloe_xs_bccd_qat_distilled": "ppyoloe_xs_bccd_qat",
    "detection_experiments/ppyoloe_xs_bccd_half_distilled": "ppyoloe_xs_bccd_half",
    "detection_experiments/ppyoloe_xs_bccd_half_distilled_pkd": "ppyoloe_xs_bccd_half",
    "imagenet_experiments/resnet50_distilled_from_resnet152": "resnet50",
    "cifar100_experiments/resnet18_distilled_from_resnet50": "resnet18",
    "cifar100_experiments/resnet18_distilled_from_resnet50_dml": "resnet18",
    "cifar100_experiments/resnet18_mini_distilled": "resnet18_mini",
}
every_page = pytest.mark.parametrize("name", PAGES)


def fields_of(settings) -> dict:
    """By name: a page with a class of its own has another class of this name than the next page."""
    return {"class": type(settings).__name__} | {
        f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)
    }


def test_every_page_with_two_networks_is_looked_at():
    found = REPOSITORY.glob("*_experiments/*_distilled*/config.py")
    assert {str(page.parent.relative_to(REPOSITORY)) for page in found} == set(PAGES)


@every_page
def test_a_page_differs_from_that_of_its_student_in_the_pair_alone(name):
    """So that a difference between their results is the teacher's; but for PaddleDetection's pairs, which see one size."""
    pair = load_experiment(REPOSITORY / name).config
    alone = load_experiment((REPOSITORY / name).parent / PAGES[name]).config
    assert fields_of(pair.used_settings) == fields_of(alone.used_settings)
    differing = {f.name for f in dataclasses.fields(pair) if getattr(pair, f.name) != getattr(alone, f.name)}
    expected = {"classifier" if name.split("_")[0] in ("imagenet", "cifar100") else "detector"}
    assert differing == expected | ({"batch_transforms"} if re.search(r"plus_[ml]_coco", name) else set())


@every_page
def test_the_teacher_is_the_network_of_its_weights(name):
    settings = load_experiment(REPOSITORY / name).config.network_settings
    if not isinstance(settings, Distilled):
        return
    place = named_experiment(settings.teacher_weights)
    if place is not None:
        page = load_experiment(place).config
        assert fields_of(settings.teacher) == fields_of(page.used_settings)
        assert page.input == load_experiment(REPOSITORY / name).config.input
        return
    known = by_name(Path(settings.teacher_weights).name)
    assert settings.teacher_weights == f"pretrained/{known.name}"
    if known.model in NETWORKS:
        assert settings.teacher.network == known.model
    else:
        assert settings.teacher == PUBLISHED[known.model]


TRAINED = (  # with five seeds
    *("cifar100_experiments/resnet18_mini_distilled", "cifar100_experiments/resnet18_mini_teacher"),
    *("detection_experiments/ppyoloe_xs_shapes_distilled", "detection_experiments/ppyoloe_xs_bccd_half_distilled"),
    "detection_experiments/ppyoloe_xs_bccd_half_distilled_pkd",
)
TRAINED_ONCE = ("detection_experiments/ppyoloe_xs_bccd_qat_distilled",)  # beside a float network, for int8


@every_page
def test_the_card_names_the_teacher_and_says_what_was_measured_or_that_nothing_was(name):
    card = " ".join((ast.get_docstring(ast.parse((REPOSITORY / name / "config.py").read_text())) or "").split())
    settings = load_experiment(REPOSITORY / name).config.network_settings
    assert ("not trained yet" in card) != (name in TRAINED + TRAINED_ONCE)
    assert ("Measured here: " in card) == (name in TRAINED_ONCE)
    if name in TRAINED and isinstance(
        settings, Distilled
    ):  # what five seeds came to stands beside the page, and on its card
        seeds = json.loads((REPOSITORY / name / "seeds.json").read_text())[""]
        alone = json.loads((REPOSITORY / name).parent.joinpath(PAGES[name], "seeds.json").read_text())[""]
        points = 100 if name.startswith("detection") else 1
        for found in (seeds, alone):
            assert len(found["values"]) == 5
            assert f"{points * found['mean']:.2f} +- {points * found['std']:.2f}" in card
    if isinstance(settings, Distilled):
        assert settings.teacher_weights in card.split("Teacher: ")[1]


@pytest.mark.parametrize("name", [name for name in PAGES if "plus" in name])
def test_the_numbers_are_paddledetection_s(shared, name):
    settings = load_experiment(REPOSITORY / name).config.network_settings
    text = (shared / "recipes" / "ppyoloe_picodet.md").read_text()
    row = next(line for line in text.splitlines() if "ppyoloe_plus_distill_l_distill_m.yml" in line)
    parts = dict(re.findall(r"(logits|feat|class|iou|dfl|weight|T): ([\d.]+)", row))
    own, feature = settings.logits, settings.feature
    assert (own.weight, feature.weight) == (float(parts["logits"]), float(parts["feat"]))
    assert (own.cls, own.iou, own.dfl) == tuple(float(parts[key]) for key in ("class", "iou", "dfl"))
    assert (own.kl, own.temperature) == (float(parts["weight"]), float(parts["T"]))
    (weights,) = (line for line in text.splitlines() if line.startswith("| FGD weights used"))
    found = re.search(r"alpha (\S+) .*beta (\S+) .*gamma (\S+) .*lambda (\S+) .*temperature ([\d.]+),", weights)
    numbers = (feature.foreground, feature.background, feature.attention, feature.relation, feature.temperature)
    assert numbers == tuple(map(float, found.groups()))
    assert feature.normalise
    assert f"| total loss | {settings.factor} * " in text
