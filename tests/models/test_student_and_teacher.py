"""Pairs of student and teacher: which fit together, what is between them, and what a model that holds both is."""

import json
from dataclasses import replace

import pytest
import torch

from public.config import classes_of, freeze, scale_epochs, thaw
from public.families import published
from public.families.distilled import CWD, FGD, KD, LD, MGD, PKD, CrossKD, Distilled, Mutual, PPYOLOELogits
from public.families.image_classifier import ImageClassifier
from public.models.distilled import Aligned
from public.models.fuse import fuse
from public.parts import decide_lent, lent_parts, state_beside, state_of, train, used_part
from public.protocols import Progress
from public.training.ema import EMA
from public.training.optimizers import parameter_groups

METHODS = {
    "cwd": CWD(weight=1.0, temperature=1.0, normalise=True),
    "pkd": PKD(weight=1.0),
    "mgd": MGD(weight=2e-5, masked=0.65),
    "fgd": FGD(
        weight=1.0, foreground=1e-5, background=5e-6, attention=1e-5, relation=5e-8, temperature=0.5, normalise=True
    ),
}
LOGITS = PPYOLOELogits(weight=4.0, cls=1.0, iou=2.5, dfl=0.5, kl=20000.0, beta=2.0, temperature=10.0)
CROSS = CrossKD(weight=1.0, cls=1.0, box=1.0, beta=1.0, layers=2)
SMALL = replace(published("ppyoloe_xs"), num_classes=3, width=0.125)
LARGE = replace(SMALL, width=0.25)
NET = ImageClassifier(
    network="resnet18_cifar",
    num_classes=5,
    in_chans=3,
    dropout=0.0,
    drop_path=0.0,
    zero_init=False,
    label_smoothing=0.0,
    options=(),
)


def pair(**changes) -> Distilled:
    fields = {
        "student": SMALL,
        "teacher": LARGE,
        "teacher_weights": None,
        "teacher_precision": "float32",
        "feature": METHODS["cwd"],
        "logits": None,
        "factor": 1.0,
        "stop_epoch": None,
    }
    return Distilled(**fields | changes)


# ---------------------------------------------------------------------------------------------- which fit


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feature": None}, ["feature and logits are None"]),
        ({"teacher": replace(LARGE, num_classes=4)}, ["num_classes = 3", "the teacher 4"]),
        ({"teacher": NET}, ["the student is a detector, the teacher a classifier"]),
        ({"teacher": replace(published("picodet_s"), num_classes=3)}, ["(32, 16, 8)", "(8, 16, 32, 64)"]),
        ({"logits": CROSS}, ["RetinaNet or of two FCOS", "the student is a PPYOLOE, the teacher a PPYOLOE"]),
        ({"logits": KD(weight=1.0, temperature=4.0)}, ["ImageClassifier", "PPYOLOE"]),
        ({"logits": LOGITS, "teacher": replace(LARGE, reg_max=8)}, ["reg_max = 16", "the teacher 8"]),
        ({"logits": LOGITS, "student": replace(published("ppyoloe_plus_t"), num_classes=3)}, ["PPYOLOEAux"]),
        ({"factor": 0.0}, ["Distilled.factor is 0.0"]),
        ({"feature": SMALL}, ["Distilled.feature"]),
        ({"stop_epoch": -1}, ["Distilled.stop_epoch is -1"]),
    ],
)
def test_what_does_not_fit_is_refused_naming_both(changes, told):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is looked at)
        pair(**changes)
    assert all(text in str(error.value) for text in told), error.value


def test_heads_to_be_crossed_must_have_the_layers_and_channels():
    student, teacher = (replace(published("retinanet"), backbone=name) for name in ("resnet18", "resnet34"))
    with pytest.raises(ValueError, match="layers is 5, but the towers have 4 and 4"):
        pair(student=student, teacher=teacher, feature=None, logits=replace(CROSS, layers=5))
    with pytest.raises(ValueError, match="neck_channels = 256, the teacher 128"):
        pair(student=student, teacher=replace(teacher, neck_channels=128), feature=None, logits=CROSS)


def test_classifiers_have_no_neck_to_compare():
    settings = pair(student=NET, teacher=NET, logits=KD(weight=1.0, temperature=4.0))
    with torch.device("meta"), pytest.raises(ValueError, match="the student, a Classifier, has none"):
        settings.build_model()
    with pytest.raises(ValueError, match="compares the heads of two ImageClassifier"):
        Mutual(student=SMALL, peer=SMALL, weight=1.0, temperature=1.0)


def test_settings_come_back_from_json_and_the_stop_goes_with_the_epochs():
    settings = pair(logits=LOGITS, stop_epoch=60)
    assert thaw(json.loads(json.dumps(freeze(settings))), classes_of(settings)) == settings
    scaled, moves = scale_epochs(settings, 0.5)
    assert scaled.stop_epoch == 30
    assert ("stop_epoch", 60, 30) in moves
    assert scale_epochs(pair(), 0.5)[0].stop_epoch is None
    assert settings.used is SMALL


# ---------------------------------------------------------------------------------------------- the model


def images(size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole():
    """A pair with everything that two PPYOLOE can have between them."""
    torch.manual_seed(0)
    model = pair(feature=METHODS["fgd"], logits=LOGITS).build_model()
    decide_lent(model)
    return model


def test_the_student_begins_as_it_would_alone():
    torch.manual_seed(3)
    alone = SMALL.build_model().state_dict()
    torch.manual_seed(3)
    beside = pair().build_model().student.state_dict()
    assert all(torch.equal(alone[name], value) for name, value in beside.items())


def test_one_forward_of_the_teacher_a_step_in_eval_mode_without_gradient(whole):
    calls = []
    handles = [
        module.register_forward_hook(lambda m, *_: calls.append((m.training, torch.is_grad_enabled())))
        for module in whole.teacher.children()
    ]
    train(whole)
    outputs = whole(images())
    for handle in handles:
        handle.remove()
    assert len(calls) == 3, "backbone, neck, head"
    assert not any(training or has_grad for training, has_grad in calls)
    with torch.no_grad():
        expected = whole.teacher(images())
    assert torch.equal(outputs.teacher.class_logits, expected.class_logits)
    assert outputs.student.class_logits.requires_grad
    assert [len(level) for level in outputs.levels] == [4, 4, 4]
    assert not any(module._forward_hooks for module in whole.modules()), "nothing is left on a module"


def test_in_eval_mode_it_is_the_student(whole):
    whole.eval()
    with torch.no_grad():
        for ours, own in zip(whole(images())[:2], whole.student(images())[:2]):
            assert torch.equal(ours, own)
    assert used_part(whole) is whole.student
    assert fuse(whole)._modules.keys() == {"student"}


def test_the_teacher_computes_in_its_own_precision():
    torch.manual_seed(0)
    seen = {}
    for precision in ("float32", "bf16"):
        model = pair(teacher_precision=precision, logits=LOGITS).build_model()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen[precision] = model(images()).teacher.class_logits.dtype
    assert seen == {"float32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_maps_trains_its_adapters_and_the_student_s_neck(method):
    torch.manual_seed(0)
    settings = pair(feature=METHODS[method])
    model, loss = settings.build_model(), settings.build_loss()
    targets = [{"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([1])}] * 2
    outputs = model(images())
    term = loss.methods[0](outputs, targets, None)
    assert term.dtype == torch.float32
    gradients = torch.autograd.grad(
        term, [*model.adapters.parameters(), *model.student.neck.parameters()], allow_unused=True
    )
    assert all(gradient is not None for gradient in gradients)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_average_optimizer_and_state_know_the_student_and_the_adapters_only(whole):
    assert lent_parts(whole) == ("teacher",)
    own = {name for name, _ in whole.named_parameters() if not name.startswith("teacher.")}
    trained = [p for group in parameter_groups(whole, 0.1, True, True) for p in group["params"]]
    assert len(trained) == len(own)
    average = EMA(decay=0.9).build(whole).model
    assert "teacher" not in average._modules
    assert state_of(used_part(average)).keys() == whole.student.state_dict().keys()
    assert {name.split(".")[0] for name in state_beside(average)} == {"adapters"}
    with torch.no_grad():
        average(images())


def test_lr_factors_speak_of_the_student_s_own_names(whole):
    groups = parameter_groups(whole, 0.0, True, True, (("backbone.", 0.1),))
    slow = next(group for group in groups if group["lr_factor"] == 0.1)["params"]
    assert {id(p) for p in slow} == {id(p) for p in whole.student.backbone.parameters() if p.requires_grad}


def test_resting_holds_on_to_the_adapters_and_asks_nobody(whole):
    settings = pair(feature=METHODS["fgd"], logits=LOGITS, stop_epoch=2)
    for epoch, is_resting in ((1, False), (2, True), (1, False)):
        settings.on_epoch(whole, epoch)
        assert whole.is_resting == is_resting
    settings.on_epoch(whole, 2)
    outputs = train(whole) or whole(images())
    assert outputs.teacher is None
    gradients = torch.autograd.grad(outputs.resting, list(whole.adapters.parameters()))
    assert all(not gradient.any() for gradient in gradients)
    settings.on_epoch(whole, 0)


def test_a_map_of_as_many_channels_needs_no_convolution():
    assert not list(Aligned(8, 8, normalise=True).parameters())
    assert Aligned(4, 8, normalise=True).align.weight.shape == (8, 4, 1, 1)


@pytest.mark.parametrize(("name", "levels"), [("retinanet", 5), ("picodet_s", 4), ("yolof", 1), ("yolox_nano", 3)])
def test_every_family_with_a_neck_can_be_taught(name, levels):
    settings = replace(published(name), num_classes=3)
    with torch.device("meta"):
        model = pair(student=settings, teacher=settings).build_model()
        outputs = model(torch.empty(2, 3, 128, 128))
    assert len(outputs.levels) == levels


def test_picodet_takes_the_head_s_terms_too():
    torch.manual_seed(0)
    settings = pair(
        student=replace(published("picodet_xs"), num_classes=3),
        teacher=replace(published("picodet_s"), num_classes=3),
        feature=None,
        logits=LD(weight=0.25, temperature=10.0, region=0.25),
    )
    target = {"boxes": torch.tensor([[4.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    for logits in (settings.logits, LOGITS):
        loss = replace(settings, logits=logits).build_loss()
        terms = loss(settings.build_model()(images()), [target] * 2, Progress(100, 0, 0, 300, 1))
        assert terms["loss_logits"] > 0


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_without_objects_and_from_half_precision_all_terms_are_finite_and_float32(precision):
    torch.manual_seed(0)
    settings = pair(feature=METHODS["fgd"], logits=LOGITS, factor=0.125, teacher_precision=precision)
    model, loss = settings.build_model(), settings.build_loss()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(images())
    for epoch in (0, 200):
        terms = loss(outputs, [none, none], Progress(epoch, 0, 0, 300, 1))
        assert set(terms) == {"loss_cls", "loss_iou", "loss_dfl", "loss_feature", "loss_logits"}
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        gradients = torch.autograd.grad(
            sum(terms.values()), list(model.student.parameters()), retain_graph=True, allow_unused=True
        )
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
        assert sum(gradient is None for gradient in gradients) == 0
