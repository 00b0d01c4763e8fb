"""The tiny PPYOLOE+: when its auxiliary branch runs, what it trains, and the modes of training."""

import dataclasses

import pytest
import torch

from public.config import freeze, thaw
from public.decoders import create_decoder
from public.families import SETTINGS_CLASSES, published
from public.families.ppyoloe import PPYOLOE
from public.losses import create_loss
from public.models import create_model
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.models.detectors.ppyoloe_aux import PPYOLOEAuxOutputs
from public.models.fuse import fuse
from public.protocols import Progress
from public.training.optimizers import parameter_groups
from tests.helpers.numerics import assert_same_in_float64, in_float64

NAME, NUM_CLASSES = "ppyoloe_plus_t", 3
STATIC = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
ALIGNED = Progress(epoch=100, step=100, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
BOTH = pytest.mark.parametrize("progress", [STATIC, ALIGNED], ids=["static", "aligned"])
SOME = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0]]), "labels": torch.tensor([2, 0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
SETTINGS = published(NAME)


def small_model():
    """A narrow network with random values in its heads too, so that no gradient is zero by construction."""
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=NUM_CLASSES, width=0.125, aux_channels=64)
    for conv in (*model.head.pred_cls, *model.head.pred_reg, model.aux_head.pred_cls, model.aux_head.pred_reg):
        torch.nn.init.normal_(conv.weight, std=0.05)
    return model


def loss_of(**changes):
    return create_loss(NAME, num_classes=NUM_CLASSES, **changes)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def random_head(seed: int) -> PPYOLOEOutputs:
    """Outputs in float64."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(2, 84, NUM_CLASSES, generator=generator, dtype=torch.float64)
    box_logits = torch.randn(2, 84, 68, generator=generator, dtype=torch.float64)
    return PPYOLOEOutputs(class_logits, box_logits, ((2, 2), (4, 4), (8, 8)))


# --- the branch ---------------------------------------------------------------------------------------------------------


@pytest.mark.numeric
def test_the_auxiliary_branch_is_no_part_of_inference():
    """Neither run nor needed: without it, evaluation and the fused copy give the same."""
    model = small_model().eval()
    with torch.no_grad():
        expected = model(images())
    assert type(expected) is PPYOLOEOutputs
    for parameter in (*model.aux_neck.parameters(), *model.aux_head.parameters()):
        torch.nn.init.constant_(parameter, float("nan"))
    fused = fuse(model)
    assert not [name for name in fused.state_dict() if name.startswith("aux_")]
    assert hasattr(model, "aux_neck")
    with torch.no_grad():
        again, precise = model(images()), in_float64(model)
        wanted, found = precise(images()), fuse(precise)(images())
    assert torch.equal(again.class_logits, expected.class_logits)
    assert_same_in_float64(found.class_logits, wanted.class_logits)


def test_outputs_of_train_mode_decode_as_the_main_head():
    outputs = small_model()(images())
    assert type(outputs) is PPYOLOEAuxOutputs
    assert outputs.auxiliary.class_logits.shape == outputs.class_logits.shape == (2, 84, NUM_CLASSES)
    assert outputs.auxiliary.level_sizes == outputs.level_sizes
    decoder = create_decoder(NAME)
    for found, wanted in zip(decoder.decode(outputs), decoder.decode(PPYOLOEOutputs(*outputs[:3]))):
        assert torch.equal(found, wanted)


def reached_by_auxiliary(model) -> set[str]:
    """The children of `model` that a gradient of the auxiliary head alone reaches."""
    outputs = model(images()).auxiliary
    (outputs.class_logits.square().sum() + outputs.box_logits.square().sum()).backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return reached


def test_the_branch_is_detached_from_the_stated_epoch_on():
    """Whatever came before: the state follows from the epoch alone, so a resumed run has it too."""
    model, everything = small_model(), {"backbone", "neck", "aux_neck", "aux_head"}
    itself = {"aux_neck", "aux_head"}
    for epoch, expected in ((0, everything), (4, everything), (5, itself), (299, itself), (3, everything)):
        SETTINGS.on_epoch(model, epoch)
        assert reached_by_auxiliary(model) == expected, epoch
    assert not [name for name in model.state_dict() if "detach" in name]


def test_initial_values():
    """The auxiliary neck starts as the neck; every class with 0.01 and every distribution flat, but for small noise."""
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=NUM_CLASSES)
    theirs = model.aux_neck.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.neck.state_dict().items())
    shared = {id(p) for p in model.neck.parameters()} & {id(p) for p in model.aux_neck.parameters()}
    assert not shared
    auxiliary = model(images()).auxiliary
    assert auxiliary.class_logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    assert auxiliary.box_logits.abs().mean() < 0.5
    assert [scale.item() for scale in model.aux_head.scales] == [1.0, 1.0, 1.0]


def test_widths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"the neck's widths differ: \(288, 144, 72\)"):
        create_model(NAME, num_classes=NUM_CLASSES, neck_channels=(768, 384, 192))
    with pytest.raises(ValueError, match=r"head_attention is 'none'; it must be conv or repvgg"):
        create_model(NAME, num_classes=NUM_CLASSES, head_attention="none")


# --- the loss -----------------------------------------------------------------------------------------------------------


@BOTH
def test_terms_are_the_sum_of_two_plain_losses_on_one_assignment(progress):
    """PPYOLOELoss, told the assignment, on each head."""
    outputs, loss = PPYOLOEAuxOutputs(*random_head(0), random_head(1)), loss_of()
    assignment = loss.assign(outputs, [SOME, NONE], progress)
    plain = PPYOLOE.build_loss(dataclasses.replace(SETTINGS, num_classes=NUM_CLASSES))
    plain.assign = lambda *_: assignment
    expected = [plain.unweighted(head, [SOME, NONE], progress) for head in (random_head(0), random_head(1))]
    found = loss.unweighted(outputs, [SOME, NONE], progress)
    for name, term in found.items():
        assert_same_in_float64(term, expected[0][name] + expected[1][name])
        assert term > 0


@BOTH
def test_which_predictions_the_assigners_read(progress):
    """The static assigner scores by the main head's boxes, the task-aligned one sees the auxiliary head only."""
    loss, targets = loss_of(), [SOME, SOME]

    def scores(main: int, auxiliary: int) -> torch.Tensor:
        return loss.assign(PPYOLOEAuxOutputs(*random_head(main), random_head(auxiliary)), targets, progress).scores

    same_main, same_auxiliary = torch.equal(scores(0, 1), scores(0, 2)), torch.equal(scores(0, 1), scores(2, 1))
    assert (same_main, same_auxiliary) == ((True, False) if progress is STATIC else (False, True))


def test_outputs_of_eval_mode_are_refused():
    with pytest.raises(ValueError, match=r"those of eval mode; call model\.train\(\)"):
        loss_of()(random_head(0), [SOME, NONE], STATIC)


@BOTH
@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_every_parameter_gets_a_finite_gradient(progress, targets):
    model = small_model()
    SETTINGS.on_epoch(model, progress.epoch)
    terms = loss_of()(model(images()), targets, progress)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.backbone.stem.conv1.conv.weight.grad.count_nonzero() > 0


# --- modes of training --------------------------------------------------------------------------------------------------


def one_step(model, inputs, progress=ALIGNED) -> tuple[dict, list]:
    model.zero_grad()
    terms = loss_of()(model(inputs), [SOME, NONE], progress)
    sum(terms.values()).backward()
    return terms, [parameter.grad for parameter in model.parameters()]


@pytest.mark.numeric
@BOTH
def test_two_passes_give_the_same_bits(progress):
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            gradients.append(one_step(small_model(), images(), progress)[1])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


@pytest.mark.numeric
def test_channels_last_computes_the_same():
    """In float64, where another order of summing leaves no trace; the layout is in use in both types."""
    expected, wanted = one_step(small_model().double(), images().double(), STATIC)
    for dtype in (torch.float64, torch.float32):
        model = small_model().to(dtype=dtype, memory_format=torch.channels_last)
        inputs = images().to(dtype=dtype, memory_format=torch.channels_last)
        found, gradients = one_step(model, inputs, STATIC)
        assert all(gradient.isfinite().all() for gradient in gradients)
        if dtype == torch.float64:
            for name, term in expected.items():
                assert_same_in_float64(found[name], term, what=name)
            assert_same_in_float64(torch.cat([g.ravel() for g in gradients]), torch.cat([g.ravel() for g in wanted]))


@pytest.mark.numeric
def test_bfloat16_is_near_float32():
    expected, _ = one_step(small_model(), images(), STATIC)
    model = small_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images())
    assert outputs.auxiliary.class_logits.dtype == torch.bfloat16
    found = loss_of()(outputs, [SOME, NONE], STATIC)
    for name, term in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], term, rtol=0.1, atol=0.0)  # 25 steps of bfloat16
    sum(found.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_group_norm_is_spared_from_weight_decay_as_batch_norm_is():
    model = small_model()
    decayed, spared = parameter_groups(model, 5e-4, decay_normalisation=False, decay_bias=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)] for parameter in spared["params"]}
    assert {f"aux_head.stem_{branch}.norm.{part}" for branch in ("cls", "reg") for part in ("weight", "bias")} <= found
    assert all(".bn." in name or ".norm." in name for name in found)
    assert "aux_head.scales.0" in {names[id(parameter)] for parameter in decayed["params"]}


def test_settings_survive_a_checkpoint():
    assert thaw(freeze(SETTINGS), SETTINGS_CLASSES) == SETTINGS


def test_plain_settings_have_no_auxiliary_field():
    """An experiment of PPYOLOE states 27 numbers; those of the auxiliary head are the tiny model's alone."""
    added = {field.name for field in dataclasses.fields(SETTINGS)} - {
        field.name for field in dataclasses.fields(PPYOLOE)
    }
    assert len(dataclasses.fields(PPYOLOE)) == 27
    assert added == {"head_attention", "aux_channels", "aux_detach_epoch", "tal_centre_radius"}
    with pytest.raises(TypeError, match="head_attention"):
        type(SETTINGS)(**{f.name: getattr(SETTINGS, f.name) for f in dataclasses.fields(PPYOLOE)})
