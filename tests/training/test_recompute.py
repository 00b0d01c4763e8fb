"""Activations that are computed again change no bit: of losses, gradients, running statistics, random numbers."""

import pytest
import torch
from torch import nn

from public.models import create_model
from public.models.recompute import recompute_backbones


def steps_of(name: str, recomputes: bool, device_type="cpu", autocast=False, **changes):
    """Two steps: outputs, gradients, the whole state, and the generator's state, with how often each stage was run."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **changes)
    assert recompute_backbones(model, recomputes) == 1
    calls = []
    (backbone,) = (module for module in model.modules() if hasattr(module, "recomputes"))
    backbone.stages[0].register_forward_pre_hook(lambda *_: calls.append(1))
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), []
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(device_type, torch.bfloat16, enabled=autocast):
            outputs = model(images)
        tensors = [value for value in (outputs if isinstance(outputs, tuple) else [outputs]) if torch.is_tensor(value)]
        sum(value.float().square().mean() for value in tensors).backward()
        found += [*tensors, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
    return [*found, *model.state_dict().values(), torch.get_rng_state()], len(calls)


@pytest.mark.parametrize(
    ("name", "changes", "autocast"),
    [("ppyoloe_xs", {}, False), ("resnet18", {}, True), ("efficientnet_b0", {"drop_path": 0.3}, False)],
)
def test_no_bit_changes(name, changes, autocast):
    plain, calls = steps_of(name, False, autocast=autocast, **changes)
    again, more_calls = steps_of(name, True, autocast=autocast, **changes)
    assert (calls, more_calls) == (2, 4)
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again))


def test_running_statistics_are_counted_once():
    """Which the test above would not notice, were they counted twice in both."""
    model = create_model("resnet18", num_classes=3)
    recompute_backbones(model, True)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    counters = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counters == {1}
