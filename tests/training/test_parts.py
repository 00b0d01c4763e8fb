"""A teacher is only lent to a network: neither state, average, checkpoint, digest, optimizer nor counts know it."""

import copy
from dataclasses import replace as replaced

import pytest
import torch
from torch import nn

from public.checkpoint_files import digest
from public.config import replace
from public.families import PUBLISHED
from public.models import create_model
from public.models.fuse import fuse
from public.models.loading import load_weights
from public.models.operations import count_operations, example_input
from public.parallel.sync_batchnorm import SyncBatchNorm2d, convert_sync_batchnorm
from public.parts import decide_lent, lent_parts, load_state, modules_without, own_modules, state_of, train
from public.training.ema import EMA, _tensors
from public.training.freezing import freeze_parameters
from public.training.run import build_state
from tests.helpers.small_task import make_trainer, run_steps


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))


class Pair(nn.Module):
    """A student that learns beside a teacher, with an adapter that is trained and only needed for it."""

    training_only = ("teacher", "adapter")
    num_classes = 1
    class_layers = ("student.2.",)

    def __init__(self) -> None:
        super().__init__()
        self.student = block()
        self.adapter = nn.Conv2d(1, 1, 1)
        self.teacher = block().eval().requires_grad_(False)
        self.seen: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.student(images)
        if not self.training:
            return found
        self.seen.append(self.teacher.training)
        return self.adapter(found) + 0.1 * self.teacher(images)


def is_of_teacher(names) -> bool:
    return any(name.startswith("teacher") for name in names)


@pytest.fixture
def trainer(config, tmp_path):
    torch.manual_seed(0)
    settings = replace(config, num_pictures=0, ema=EMA(decay=0.9), digest_interval=1)
    return make_trainer(settings, Pair(), tmp_path)


def test_the_teacher_stays_as_it_is_and_in_eval_mode(trainer):
    before = copy.deepcopy(trainer.state.model.teacher.state_dict())
    run_steps(trainer, 3)
    assert trainer.state.model.seen == [False] * 3
    after = trainer.state.model.teacher.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    student = trainer.state.model.student.state_dict()
    assert not torch.equal(student["1.running_mean"], torch.zeros(4)), "the student is in train mode"


def test_neither_checkpoint_nor_average_nor_optimizer_nor_digests_hold_it(trainer):
    run_steps(trainer, 2)
    state = trainer.state
    checkpoint = state.state_dict()
    for part in (checkpoint["model"], checkpoint["training"]["raw_model"], state_of(state.model)):
        assert not is_of_teacher(part)
        assert {"student.0.weight", "adapter.weight"} <= part.keys()
    assert not hasattr(state.ema.model, "teacher")
    trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in state.model.teacher.parameters()}
    same = digest(state_of(state.model))
    with torch.no_grad():
        state.model.teacher[0].weight.add_(1.0)
    assert digest(state_of(state.model)) == same
    with torch.no_grad():
        state.model.student[0].weight.add_(1.0)
    assert digest(state_of(state.model)) != same


def test_the_run_writes_digests_without_it(trainer, tmp_path):
    run_steps(trainer, 1)
    import json

    line = json.loads((tmp_path / "digests.jsonl").read_text().splitlines()[-1])
    assert line["weights"] == digest(state_of(trainer.state.model))
    assert line["ema"] == digest(trainer.state.ema.model.state_dict())


def test_a_run_goes_on_without_the_teacher_in_the_checkpoint(trainer, config, tmp_path):
    """Another teacher object, given anew, and the student's state: the same bits as without the stop."""
    run_steps(trainer, 2)
    saved = copy.deepcopy(trainer.state.state_dict())
    run_steps(trainer, 2)
    torch.manual_seed(1)
    again = make_trainer(trainer.config, Pair(), tmp_path)
    teacher = trainer.state.model.teacher.state_dict()
    again.state.model.teacher.load_state_dict(teacher)
    again.state.load_state_dict(saved)
    run_steps(again, 2)
    for whole, resumed in zip(trainer.state.model.state_dict().values(), again.state.model.state_dict().values()):
        assert torch.equal(whole, resumed)
    assert again.state.state_dict()["training"]["chain"] == trainer.state.state_dict()["training"]["chain"]


def test_what_is_missing_of_the_own_state_is_still_named():
    model = Pair()
    state = state_of(model)
    del state["student.0.weight"]
    with pytest.raises(RuntimeError, match=r"student\.0\.weight"):
        load_state(model, state)


def test_fuse_and_counts_leave_it_out():
    """fuse leaves the adapter out as well; a count of the whole network knows all that is trained."""
    model = Pair()
    assert not is_of_teacher(fuse(model).state_dict())
    assert "adapter" not in dict(fuse(model).named_children())
    assert is_of_teacher(model.state_dict()), "the model itself is not touched"
    own = sum(p.numel() for p in (*model.student.parameters(), *model.adapter.parameters()))
    count = count_operations(Pair().eval(), example_input(8, 8))
    assert count.parameters == own
    assert not is_of_teacher(row.name for row in count.rows)


def test_batchnorm_weights_and_freezing_know_only_the_own_parts(tmp_path):
    model = convert_sync_batchnorm(Pair())
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["student.1"] is SyncBatchNorm2d
    assert kinds["teacher.1"] is nn.BatchNorm2d
    assert not any(module is part for module in own_modules(model) for part in model.teacher.modules())
    with pytest.raises(ValueError, match="teacher"):
        freeze_parameters(model, ("teacher",))
    lines, is_whole = load_weights(Pair(), {"model": state_of(Pair())}, tmp_path / "pair.pth")
    assert is_whole
    assert not lines


def test_an_auxiliary_head_is_trained_and_stays_state(config, tmp_path):
    """PPYOLOE+ t's is left out by `fuse` alone; also of the average, none of whose parameters is trained."""
    model = create_model("ppyoloe_plus_t", num_classes=2)
    assert lent_parts(model) == ()
    assert state_of(model).keys() == model.state_dict().keys()
    average = EMA(decay=0.9).build(model)
    assert lent_parts(average.model) == ()
    assert state_of(average.model).keys() == model.state_dict().keys()
    assert not any(name.startswith("aux") for name in fuse(average.model).state_dict())


def test_an_auxiliary_head_that_a_page_freezes_stays_state(config):
    """Its BatchNorm statistics still move: a run that goes on needs them."""
    settings = replaced(PUBLISHED["ppyoloe_plus_t"], num_classes=config.detector.num_classes)
    state, _ = build_state(
        replace(config, detector=settings, freeze=("aux_neck", "aux_head"), ema=EMA(decay=0.9)),
        torch.device("cpu"),
    )
    assert lent_parts(state.model) == ()
    for part in (state.state_dict()["model"], state.state_dict()["training"]["raw_model"]):
        assert any(name.startswith("aux_neck") for name in part)
    pair = Pair()
    decide_lent(pair)
    freeze_parameters(pair, ("adapter",))
    assert lent_parts(pair) == ("teacher",)


def test_tensors_and_modules_come_as_torch_names_them():
    """Each once, those that two modules share, too; and without some children."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), nn.BatchNorm1d(2))
    model.add_module("none", None)
    for left_out in ((), ("1",), ("0", "2")):
        named = [*model.named_parameters(), *model.named_buffers()]
        expected = [id(tensor) for name, tensor in named if name.split(".")[0] not in left_out]
        assert [id(tensor) for tensor in _tensors(model, left_out)] == expected
    model[1].append(model[0])
    model[1][1].weight = model[0].weight
    expected = [*model.parameters(), *model.buffers()]
    assert [id(tensor) for tensor in _tensors(model, ())] == [id(tensor) for tensor in expected]
    assert list(modules_without(model, ())) == list(model.modules())


def test_a_module_that_was_put_aside_trains_again():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))
    for module in (model, model[1][0]):
        module.eval()
        train(model)
        assert all(part.training for part in model.modules())
