"""create_model: initial values, pretrained weights, other numbers of classes and of channels."""

import warnings

import pytest
import torch

from public.families import published
from public.models import create_model, list_models
from public.models.input_channels import adapt_input_channels
from public.training.checkpoint import save_atomic

NAME = "ppyoloe_xs"


def seeded(num_classes: int = 4, seed: int = 0, **changes):
    torch.manual_seed(seed)
    return create_model(NAME, num_classes=num_classes, **changes)


@pytest.fixture
def checkpoint(tmp_path):
    """A path, and the model whose weights lie there; running statistics are not those of a fresh model."""
    model = seeded(seed=1).train()
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / "weights.pth"
    save_atomic({"model": model.state_dict(), "num_classes": 4}, path)
    return path, model


def images(in_chans: int) -> torch.Tensor:
    return torch.randn(2, in_chans, 64, 64, generator=torch.Generator().manual_seed(0))


def differences(model, other) -> set[str]:
    """Names of the tensors that are not the same in both."""
    theirs = other.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, theirs[name])}


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_with_the_published_number_of_classes(name):
    with torch.device("meta"):
        model = create_model(name)
        outputs = model.eval()(torch.empty(1, 3, 64, 64))
    assert model.num_classes == published(name).num_classes == 80
    assert outputs.class_logits.shape == (1, 84, 80)
    assert model.training is False


def test_pretrained_weights_are_taken_whole_and_without_a_word(checkpoint):
    path, expected = checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = seeded(pretrained=str(path))
    assert differences(model, expected) == set()
    assert model.training


def test_other_number_of_classes_keeps_the_initial_class_layers_and_says_so(checkpoint):
    path, expected = checkpoint
    with pytest.warns(UserWarning, match="initial values kept") as caught:
        model = seeded(num_classes=7, pretrained=path)
    class_layers = {name for name in model.state_dict() if name.startswith(model.class_layers)}
    assert len(class_layers) == len(caught) == 6
    assert {name for name in class_layers for warning in caught if name in str(warning.message)} == class_layers
    fresh = seeded(num_classes=7).state_dict()
    for name, value in model.state_dict().items():
        wanted = fresh[name] if name in class_layers else expected.state_dict()[name]
        assert torch.equal(value, wanted), name


def test_alpha_that_a_file_lacks_is_one_and_is_reported(checkpoint):
    path, expected = checkpoint
    with pytest.warns(UserWarning, match="learnt factors"):
        model = seeded(pretrained=path, use_alpha=True)
    with torch.no_grad():
        found, wanted = model.eval()(images(3)), expected.eval()(images(3))
    assert torch.equal(found.class_logits, wanted.class_logits)


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"weights\.pth"):
        create_model("ppyoloe_s", num_classes=4, pretrained=checkpoint[0])
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        create_model(NAME, num_classes=4, pretrained=checkpoint[0].with_name("nothing.pth"))


@pytest.mark.parametrize("in_chans", [1, 4, 6])
def test_only_the_first_convolution_is_adapted(checkpoint, in_chans):
    path, expected = checkpoint
    with pytest.warns(UserWarning, match=f"made for 3 channels, adapted to {in_chans}"):
        model = seeded(pretrained=path, in_chans=in_chans)
    first = f"{model.input_layer}.weight"
    theirs, state = expected.state_dict(), model.state_dict()
    assert {name for name in state if state[name].shape != theirs[name].shape} == {first}
    assert all(torch.equal(state[name], theirs[name]) for name in state if name != first)
    assert torch.equal(state[first], adapt_input_channels(theirs[first], in_chans))
    outputs = model(images(in_chans))
    outputs.class_logits.sum().backward()
    assert dict(model.named_parameters())[first].grad.count_nonzero() > 0


def test_grey_images_give_what_their_three_equal_channels_gave(checkpoint):
    path, expected = checkpoint
    with pytest.warns(UserWarning, match="adapted to 1"):
        model = seeded(pretrained=path, in_chans=1)
    grey = images(1)
    with torch.no_grad():
        found, wanted = model.eval()(grey), expected.eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found.class_logits, wanted.class_logits)
    torch.testing.assert_close(found.box_logits, wanted.box_logits)


def test_a_file_of_the_same_number_of_channels_is_not_adapted(tmp_path):
    """And one of another number, here 4, is adapted back to 3 by the same rule."""
    four = seeded(seed=1, in_chans=4)
    path = tmp_path / "four.pth"
    save_atomic({"model": four.state_dict(), "num_classes": 4}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert differences(seeded(pretrained=path, in_chans=4), four) == set()
    with pytest.warns(UserWarning, match="made for 4 channels, adapted to 3"):
        three = seeded(pretrained=path)
    name = f"{three.input_layer}.weight"
    assert torch.equal(three.state_dict()[name], four.state_dict()[name][:, :3] * (4 / 3))


def test_rule_of_adaptation():
    """Written out for one weight of three channels, as timm's adapt_input_conv gives it."""
    weight = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert adapt_input_channels(weight, 1).flatten().tolist() == [7.0]
    assert adapt_input_channels(weight, 2).flatten().tolist() == [1.5, 3.0]
    assert adapt_input_channels(weight, 3).flatten().tolist() == [1.0, 2.0, 4.0]
    assert adapt_input_channels(weight, 4).flatten().tolist() == [0.75, 1.5, 3.0, 0.75]
    assert adapt_input_channels(weight, 6).flatten().tolist() == [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="in_chans = 0"):
        create_model(NAME, in_chans=0)


def test_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="depht"):
        create_model(NAME, depht=0.5)
