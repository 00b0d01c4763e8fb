"""create_model: detectors, classifiers and backbones; pretrained weights, other numbers of classes and of channels."""

import dataclasses
import warnings

import pytest
import torch

from public.checkpoint_files import save_atomic
from public.families import PUBLISHED, published
from public.models import create_model, list_models
from public.models.backbone import Backbone
from public.models.backbones import NETWORKS
from public.models.input_channels import adapt_input_channels
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors import RELEASED
from public.weights.load import load_starting_weights
from tests.helpers.numerics import EPS, assert_same_in_float64, in_float64

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


def test_list_of_names():
    names = list_models()
    assert names == sorted(names)
    assert {"ppyoloe_s", "ppyoloe_plus_t", "resnet50", "regnety_400mf", "lcnet_100"} <= set(names)
    assert len(names) == len(PUBLISHED) + len(NETWORKS)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_detector_builds_with_the_published_number_of_classes(name):
    with torch.device("meta"):
        model = create_model(name)
        outputs = model.eval()(torch.empty(1, 3, 64, 64))
    num_classes = len(RELEASED[name].class_names) if name in RELEASED else len(COCO_CLASSES)
    assert model.num_classes == published(name).num_classes == num_classes
    assert outputs.class_logits.shape[::2] == (1, model.num_classes)
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


def grey_and_colour(grey_model, colour_model):
    """Both in float64, after a look at the grey one's first kernels: sums over the colours, rounded to float32.

    The copy gets the sums that are not rounded, so that nothing but a mistake can make the outputs differ.
    """
    precise, theirs = in_float64(grey_model), in_float64(colour_model)
    state, colours = precise.state_dict(), theirs.state_dict()
    adapted = [name for name, value in state.items() if value.shape != colours[name].shape]  # several in RepVGG's block
    assert f"{grey_model.input_layer}.weight" in adapted
    for name in adapted:
        exact = adapt_input_channels(colours[name], 1)
        assert_same_in_float64(state[name], exact, bound=2 * EPS)
        state[name].copy_(exact)
    return precise, theirs


@pytest.mark.numeric
def test_grey_images_give_what_their_three_equal_channels_gave(checkpoint):
    path, expected = checkpoint
    with pytest.warns(UserWarning, match="adapted to 1"):
        model = seeded(pretrained=path, in_chans=1)
    grey = images(1)
    with torch.no_grad():
        grey_model, colour_model = grey_and_colour(model.eval(), expected.eval())
        found, wanted = grey_model(grey), colour_model(grey.expand(-1, 3, -1, -1))
    assert_same_in_float64(found.class_logits, wanted.class_logits)
    assert_same_in_float64(found.box_logits, wanted.box_logits)


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


def test_no_file_can_ask_for_a_billion_layers():
    """The fields that say how many layers there are, of every family: building them would take hours."""
    asked = set()
    for settings in {type(value): value for value in PUBLISHED.values()}.values():
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if field.name == "depth" or field.name.endswith(("_blocks", "_convs")):
                huge = type(value)(10**9) if not isinstance(value, tuple) else (*value[:-1], 10**9)
                with pytest.raises(ValueError, match=field.name):
                    dataclasses.replace(settings, **{field.name: huge})
                asked.add(field.name)
    assert {"depth", "backbone_blocks", "neck_blocks", "head_convs", "num_box_convs"} <= asked


def test_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="depht"):
        create_model(NAME, depht=0.5)


# ---------------------------------------------------------------------------------------------- classifiers


def save_classifier(path, name: str, *, num_classes: int = 5, **keywords):
    """A classifier with statistics of its own, and a checkpoint of it at `path`."""
    torch.manual_seed(2)
    model = create_model(name, num_classes=num_classes, **keywords)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    content = {"model": model.state_dict(), "model_name": name, "num_classes": num_classes, "keywords": keywords}
    save_atomic(content, path)
    return path, model.eval()


def test_classifier_takes_pretrained_weights_and_another_number_of_classes(tmp_path):
    path, expected = save_classifier(tmp_path / "weights.pth", "resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert differences(create_model("resnet18", num_classes=5, pretrained=path), expected) == set()
    with pytest.warns(UserWarning, match="initial values kept") as caught:
        model = create_model("resnet18", num_classes=8, pretrained=path)
    assert len(caught) == 2
    assert {name for name, value in model.state_dict().items() if value.shape != expected.state_dict()[name].shape} == {
        "fc.weight",
        "fc.bias",
    }
    assert model(images(3)).shape == (2, 8)
    assert torch.equal(model.backbone.stem.conv.conv.weight, expected.backbone.stem.conv.conv.weight)


def test_reset_classifier_changes_the_last_layer_alone():
    model = create_model("resnet18", num_classes=5).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reset_classifier(9)
    assert model.num_classes == 9
    assert model(images(3).double()).shape == (2, 9)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if not name.startswith("backbone.")} == {"fc.weight", "fc.bias"}
    assert all("running" in name or "num_batches" in name for name in changed if name.startswith("backbone."))


def test_reset_classifier_refuses_what_is_no_number_of_classes():
    model = create_model("shufflenetv2_x0_5", num_classes=3)
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"num_classes = {number}"):
            model.reset_classifier(number)
    assert (model.num_classes, model.fc.out_features) == (3, 3)


@pytest.mark.parametrize(
    "name", ["resnet18", "yolov5_n", "csp_darknet_nano", "shufflenetv2_x0_5", "repvgg_a0", "cspresnet_xs", "rexnet_100"]
)
def test_classifiers_see_grey_images_as_their_three_equal_channels(tmp_path, name):
    path, expected = save_classifier(tmp_path / "weights.pth", name)
    with pytest.warns(UserWarning, match="made for 3 channels, adapted to 1"):
        model = create_model(name, num_classes=5, pretrained=path, in_chans=1).eval()
    grey = images(1)
    with torch.no_grad():
        grey_model, colour_model = grey_and_colour(model, expected)
        assert_same_in_float64(grey_model(grey), colour_model(grey.expand(-1, 3, -1, -1)))


def test_keywords_that_the_weights_need_come_from_the_checkpoint(tmp_path):
    path, expected = save_classifier(tmp_path / "weights.pth", "regnety_800mf", rounding="up")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert differences(create_model("regnety_800mf", num_classes=5, pretrained=path), expected) == set()
        create_model("regnety_800mf", num_classes=5, pretrained=path, rounding="up", dropout=0.5)
    with pytest.raises(ValueError, match=r"weights\.pth: its weights belong to rounding='up', not to 'even'"):
        create_model("regnety_800mf", num_classes=5, pretrained=path, rounding="even")


# ---------------------------------------------------------------------------------------------- backbones


def test_features_only_is_the_backbone_with_its_weights_from_any_checkpoint_that_has_it(tmp_path):
    path, expected = save_classifier(tmp_path / "classifier.pth", "cspresnet_xs")
    x = images(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = create_model("cspresnet_xs", features_only=True, out_strides=(16, 8), pretrained=path).eval()
    assert isinstance(backbone, Backbone)
    assert (backbone.out_strides, backbone.out_channels) == ((8, 16), (64, 128))
    assert len(backbone.stages) == 3
    with torch.no_grad():
        found, wanted = backbone(x), expected.backbone(x)[1:3]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))

    detector = seeded(seed=4)
    save_atomic({"model": detector.state_dict(), "num_classes": 4}, tmp_path / "detector.pth")
    backbone = create_model("cspresnet_xs", features_only=True, pretrained=tmp_path / "detector.pth")
    assert differences(backbone, detector.backbone) == set()


def test_a_checkpoint_of_a_backbone_alone_leaves_the_last_layer_and_says_so(tmp_path):
    """As `public.weights.convert --backbone_only` writes it, here from a detector."""
    detector = seeded(seed=4)
    state = {name: value for name, value in detector.state_dict().items() if name.startswith("backbone.")}
    save_atomic({"model": state, "part": "backbone", "num_classes": None}, tmp_path / "part.pth")
    with pytest.warns(UserWarning, match="the backbone alone"):
        model = create_model("cspresnet_xs", num_classes=5, pretrained=tmp_path / "part.pth")
    assert differences(model.backbone, detector.backbone) == set()


@pytest.mark.parametrize("name", ["regnety_400mf", "mobilenetv3_small", "shufflenetv2_x0_5", "resnet18", "lcnet_035"])
def test_a_detector_on_any_backbone(name):
    """It learns through the backbone, which starts with its own initial values, and has a box for each point."""
    torch.manual_seed(3)
    alone = create_model(name, num_classes=1, in_chans=2).backbone
    torch.manual_seed(3)
    detector = create_model(NAME, num_classes=20, backbone=name, in_chans=2)
    assert differences(detector.backbone, alone) == set()
    assert detector.backbone.out_strides == (8, 16, 32)
    assert detector.backbone.out_channels == alone.out_channels[-3:]
    outputs = detector(images(2))
    assert outputs.class_logits.shape == (2, 84, 20)
    outputs.box_logits.square().mean().backward()  # the class layers start at zero, so their gradient ends there
    first = detector.get_submodule(detector.input_layer)
    assert first.weight.shape[1] == 2
    torch.nn.init.normal_(detector.head.pred_reg[0].weight)
    detector(images(2)).box_logits.square().mean().backward()
    assert first.weight.grad.abs().sum() > 0


def test_a_backbone_as_a_module_keeps_its_weights_in_every_family(tmp_path):
    path, expected = save_classifier(tmp_path / "classifier.pth", "cspresnet_xs")
    for detector in (NAME, "ppyoloe_plus_t"):
        backbone = create_model("cspresnet_xs", features_only=True, pretrained=path)
        model = create_model(detector, num_classes=3, backbone=backbone)
        assert model.backbone is backbone
        assert differences(model.backbone, expected.backbone) == set()


def test_a_classifiers_weights_start_a_detector_with_the_same_backbone(tmp_path):
    path, classifier = save_classifier(tmp_path / "classifier.pth", "regnety_200mf")
    torch.manual_seed(0)
    detector = create_model(NAME, num_classes=4, backbone="regnety_200mf")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    lines = load_starting_weights(detector, path, backbone_only=True)
    assert differences(detector.backbone, classifier.backbone) == set()
    rest = {name for name in before if not name.startswith("backbone.")}
    assert all(torch.equal(detector.state_dict()[name], before[name]) for name in rest)
    assert len(lines) == 1
    assert f"the backbone alone: {len(classifier.backbone.state_dict())} arrays" in lines[0]
    with pytest.raises(ValueError, match=r"classifier\.pth does not fit the model"):
        load_starting_weights(create_model(NAME, num_classes=4, backbone="resnet18"), path, backbone_only=True)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5"}, "no published network is called 'resnet5'; did you mean resnet50"),
        ({"name": "ppyoloe-s"}, "did you mean ppyoloe_s"),
        (
            {"name": NAME, "backbone": "regnety_401mf"},
            "no backbone is called 'regnety_401mf'; did you mean regnety_400mf",
        ),
        ({"name": NAME, "backbone": "resnet18_cifar"}, r"stride \[32, 16\] can be had; this backbone has .*1, 2, 4, 8"),
        ({"name": NAME, "features_only": True}, "is a detector; features_only=True belongs to a backbone"),
        ({"name": "resnet18", "backbone": "resnet50"}, "resnet18 is a backbone itself"),
        ({"name": "resnet18", "out_strides": (8,)}, "belongs to features_only=True"),
        ({"name": "resnet18", "features_only": True, "out_strides": (8, 64)}, r"stride \[64\] can be had"),
        (
            {"name": "resnet18", "features_only": True, "out_strides": (8, 8)},
            r"out_strides=\(8, 8\): .* each once; .*4, 8, 16, 32",
        ),
        ({"name": "resnet18", "features_only": True, "out_strides": ()}, "name at least one stride"),
        ({"name": "resnet18", "in_chans": 0}, "in_chans = 0"),
        ({"name": "resnet18", "num_classes": 0}, r"num_classes = 0: .*features_only=True"),
        ({"name": "efficientnet_b0", "num_classes": -1}, "num_classes = -1"),
        ({"name": "rexnet_100", "num_classes": "10"}, "num_classes = '10'"),
        ({"name": NAME, "num_classes": 0}, "num_classes = 0"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


def test_unknown_keyword_of_a_classifier_is_an_error():
    with pytest.raises(TypeError, match="resnet18 takes no keyword 'dropuot'; did you mean dropout"):
        create_model("resnet18", dropuot=0.5)
    with pytest.raises(TypeError, match=r"rexnet_100 takes no keyword 'drop_rate'; did you mean .*drop_path"):
        create_model("rexnet_100", drop_rate=0.1)


@pytest.mark.parametrize("pretrained", [True, False])
def test_pretrained_names_a_checkpoint(pretrained):
    with pytest.raises(TypeError, match=r"Name a checkpoint, such as python -m public\.weights\.convert makes"):
        create_model("resnet18", pretrained=pretrained)


@pytest.mark.parametrize("keywords", [{"nonsense": 1}, {"num_classes": 3}, {"zero_init": True, "": 2}])
def test_keywords_of_a_file_that_no_network_has_are_named_with_it(keywords, tmp_path):
    torch.save({"model": {}, "keywords": keywords}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: .*keywords of its weights"):
        create_model("shufflenetv2_x0_5", num_classes=2, pretrained=tmp_path / "a.pth")
    with pytest.raises(TypeError):
        create_model("shufflenetv2_x0_5", num_classes=2, nonsense=1)
