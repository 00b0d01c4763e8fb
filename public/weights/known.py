"""The weights that experiments start from: what lies under pretrained/, where it comes from, and how it is made.

A table, and nothing that reads or downloads (`public.weights.download` does).  Addresses and figures are those of
PaddleDetection's and YOLOX's READMEs, torchvision's own table and MMDetection's model zoo; nothing was downloaded for this
one, so a sum is given only where somebody has published it: the file names of torchvision and MMDetection have the first
eight digits of theirs in them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from public.files import REPOSITORY

PADDLE = "https://paddledet.bj.bcebos.com/models"
TORCHVISION = "https://download.pytorch.org/models"
PADDLE_CLAS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/legendary_models"
PADDLE_KEYPOINT = "https://bj.bcebos.com/v1/paddledet/models/keypoint"  # as configs/keypoint/tiny_pose writes it
PADDLE_OBJECTS365 = "https://bj.bcebos.com/v1/paddledet/models/pretrained"  # as configs/ppyoloe/objects365 writes it


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """One file under pretrained/ and the file of another project that it is made from.

    Fields:
        name: file name under pretrained/.
        model: the published name it is converted for.
        original: the other project's file name.
        url: where the other project offers it.
        source: whose file it is and what it was trained on.
        num_classes: of the file; None for a backbone alone.
        published: the figure its makers state, in their words.
        sha256: of `original`, where it is known, or its beginning, and `sha256_source`, who has published it.
        project: as the converter calls it.
    """

    name: str
    model: str
    original: str
    url: str
    source: str
    num_classes: int | None
    published: str
    sha256: str | None = None
    sha256_source: str = ""
    project: str = "paddle"

    @property
    def backbone_only(self) -> bool:
        return self.num_classes is None

    @property
    def command(self) -> str:
        """The command that makes it, typed in the repository with `original` beside."""
        flag = " --backbone_only" if self.backbone_only else ""
        return f"python -m public.weights.convert {self.project} {self.model} {self.original} -o pretrained/{self.name}{flag}"

    @property
    def short_name(self) -> str:
        """What a person types: `name` without its ending."""
        return self.name.removesuffix(".pth")

    @property
    def path(self) -> Path:
        """Where it lies in this repository, or would."""
        return REPOSITORY / "pretrained" / self.name

    @property
    def licence(self) -> str:
        """Under which terms its makers offer it, in a line."""
        return LICENCES[self.project]


def _coco(model: str, name: str, original: str, figure: str) -> KnownWeights:
    return KnownWeights(
        name=name,
        model=model,
        original=f"{original}.pdparams",
        url=f"{PADDLE}/{original}.pdparams",
        source="PaddleDetection, COCO train2017",
        num_classes=80,
        published=f"AP {figure} on COCO val2017",
    )


def _objects365(size: str, figure: str, sha256: str | None = None, sha256_source: str = "") -> KnownWeights:
    original = f"ppyoloe_crn_{size}_obj365_pretrained.pdparams"
    return KnownWeights(
        name=f"ppyoloe_plus_{size}_objects365.pth",
        model=f"ppyoloe_plus_{size}",
        original=original,
        url=f"{PADDLE_OBJECTS365}/{original}",
        source="PaddleDetection, Objects365",
        num_classes=365,
        published=f"AP50 {figure} on Objects365",
        sha256=sha256,
        sha256_source=sha256_source,
    )


def _imagenet(size: str, model: str) -> KnownWeights:
    original = f"CSPResNetb_{size}_pretrained.pdparams"
    return KnownWeights(
        name=f"cspresnet_{size}_imagenet.pth",
        model=model,
        original=original,
        url=f"{PADDLE}/pretrained/{original}",
        source="PaddleDetection, backbone trained on ImageNet",
        num_classes=None,
        published="none",
    )


def _lcnet(network: str, size: str, original: str, folder: str) -> KnownWeights:
    """The backbone of a PicoDet of 2022; the file is that of a classifier, or of its backbone alone."""
    return KnownWeights(
        name=f"{network}_imagenet.pth",
        model=f"picodet_{size}",
        original=f"{original}.pdparams",
        url=f"{folder}/{original}.pdparams",
        source="PaddleClas, backbone trained on ImageNet",
        num_classes=None,
        published="none",
    )


def _pedestrian(backbone: str, side: int, original: str, published: str) -> KnownWeights:
    return KnownWeights(
        name=f"picodet_s_{side}_{backbone}_pedestrian.pth",
        model=f"picodet_s_{side}_pedestrian" if backbone == "lcnet" else f"picodet_s_{side}_esnet_pedestrian",
        original=f"{original.rpartition('/')[2]}.pdparams",
        url=f"{PADDLE_KEYPOINT}/{original}.pdparams",
        source="PaddleDetection, persons of AI Challenger and COCO train2017",
        num_classes=1,
        published=published,
    )


def _esnet(network: str, size: str, original: str) -> KnownWeights:
    """The backbone of a PicoDet of 2021."""
    return KnownWeights(
        name=f"{network}_imagenet.pth",
        model=f"picodet_{size}_esnet",
        original=f"{original}.pdparams",
        url=f"{PADDLE}/pretrained/{original}.pdparams",
        source="PaddleDetection, backbone trained on ImageNet",
        num_classes=None,
        published="none",
    )


KNOWN = (
    _coco("ppyoloe_s", "ppyoloe_s_coco.pth", "ppyoloe_crn_s_300e_coco", "43.0"),
    _coco("ppyoloe_m", "ppyoloe_m_coco.pth", "ppyoloe_crn_m_300e_coco", "49.0"),
    _coco("ppyoloe_l", "ppyoloe_l_coco.pth", "ppyoloe_crn_l_300e_coco", "51.4"),
    _coco("ppyoloe_x", "ppyoloe_x_coco.pth", "ppyoloe_crn_x_300e_coco", "52.3"),
    _coco("ppyoloe_plus_t", "ppyoloe_plus_t_coco.pth", "ppyoloe_plus_crn_t_auxhead_300e_coco", "39.9"),
    _coco("ppyoloe_plus_s", "ppyoloe_plus_s_coco.pth", "ppyoloe_plus_crn_s_80e_coco", "43.7"),
    _coco("ppyoloe_plus_m", "ppyoloe_plus_m_coco.pth", "ppyoloe_plus_crn_m_80e_coco", "49.8"),
    _coco("ppyoloe_plus_l", "ppyoloe_plus_l_coco.pth", "ppyoloe_plus_crn_l_80e_coco", "52.9"),
    _coco("ppyoloe_plus_x", "ppyoloe_plus_x_coco.pth", "ppyoloe_plus_crn_x_80e_coco", "54.7"),
    _objects365(
        "s",
        "18.1",
        sha256="a0b3edcf31d2c641c20ae4e137666662d498b48f43d09debeaea2dfb0c570ff7",
        sha256_source="a third party, who recorded it from the official download",
    ),
    _objects365("m", "25.0"),
    _objects365("l", "30.8"),
    _objects365("x", "32.7"),
    _imagenet("t", "ppyoloe_plus_t"),
    _imagenet("s", "ppyoloe_s"),
    _imagenet("m", "ppyoloe_m"),
    _imagenet("l", "ppyoloe_l"),
    _imagenet("x", "ppyoloe_x"),
    *(
        _coco(f"picodet_{size}", f"picodet_{size}_coco.pth", f"picodet_{size}_coco_lcnet", figure)
        for size, figure in (
            *(("xs_320", "23.5"), ("xs_416", "26.2"), ("s_320", "29.1"), ("s_416", "32.5"), ("m_320", "34.4")),
            *(("m_416", "37.5"), ("l_320", "36.1"), ("l_416", "39.4"), ("l_640", "42.6")),
        )
    ),
    _coco("picodet_s_416_npu", "picodet_s_416_npu_coco.pth", "picodet_s_416_coco_npu", "30.1"),
    _pedestrian("lcnet", 192, "tinypose_enhance/picodet_s_192_lcnet_pedestrian", "none known here"),
    _pedestrian("lcnet", 320, "tinypose_enhance/picodet_s_320_lcnet_pedestrian", "none known here"),
    *(
        _coco(f"picodet_{size}_esnet", f"picodet_{size}_esnet_coco.pth", f"picodet_{size}_coco", figure)
        for size, figure in (
            *(("s_320", "27.1"), ("s_416", "30.7"), ("m_320", "30.9"), ("m_416", "34.8")),
            *(("l_320", "32.9"), ("l_416", "36.6"), ("l_640", "40.9")),
        )
    ),
    _pedestrian("esnet", 192, "picodet_s_192_pedestrian", "AP 29.0 on the persons of COCO val2017"),
    _pedestrian("esnet", 320, "picodet_s_320_pedestrian", "AP 38.5 on the persons of COCO val2017"),
    KnownWeights(
        name="picodet_640_mainbody.pth",
        model="picodet_640_mainbody",
        original="picodet_lcnet_x2_5_640_mainbody.pdparams",
        url=f"{PADDLE}/picodet_lcnet_x2_5_640_mainbody.pdparams",
        source="PaddleDetection, objects of any class in five data sets",
        num_classes=1,
        published="AP 41.5 on its own validation pictures",
    ),
    _lcnet("lcnet_035", "xs", "LCNet_x0_35_pretrained", f"{PADDLE}/pretrained"),
    _lcnet("lcnet_075", "s", "PPLCNet_x0_75_pretrained", PADDLE_CLAS),
    _lcnet("lcnet_150", "m", "LCNet_x1_5_pretrained", f"{PADDLE}/pretrained"),
    _lcnet("lcnet_200", "l", "PPLCNet_x2_0_pretrained", PADDLE_CLAS),
    _esnet("esnet_075", "s", "ESNet_x0_75_pretrained"),
    _esnet("esnet_100", "m", "ESNet_x1_0_pretrained"),
    _esnet("esnet_125", "l", "ESNet_x1_25_pretrained"),
)


# torchvision's IMAGENET1K_V1: the weights of the papers' recipes.  The figures are those of its table.
CLASSIFIERS = tuple(
    KnownWeights(
        name=f"{model}_imagenet.pth",
        model=model,
        original=f"{original}-{digits}.pth",
        url=f"{TORCHVISION}/{original}-{digits}.pth",
        source="torchvision, ImageNet",
        num_classes=1000,
        published=f"top-1 accuracy {accuracy} % on ImageNet's validation pictures",
        sha256=digits,
        sha256_source="its file name",
        project="torchvision",
    )
    for model, original, digits, accuracy in (
        ("resnet18", "resnet18", "f37072fd", "69.758"),
        ("resnet34", "resnet34", "b627a593", "73.314"),
        ("resnet50", "resnet50", "0676ba61", "76.13"),
        ("resnet101", "resnet101", "63fe2227", "77.374"),
        ("resnet152", "resnet152", "394f9c45", "78.312"),
        ("efficientnet_b0", "efficientnet_b0_rwightman", "7f5810bc", "77.692"),
        ("efficientnet_b1", "efficientnet_b1_rwightman", "bac287d4", "78.642"),
        ("efficientnet_b2", "efficientnet_b2_rwightman", "c35c1473", "80.608"),
        ("efficientnet_b3", "efficientnet_b3_rwightman", "b3899882", "82.008"),
        ("regnety_400mf", "regnet_y_400mf", "c65dace8", "74.046"),
        ("regnety_1_6gf", "regnet_y_1_6gf", "b11a554e", "77.95"),
        ("regnety_3_2gf", "regnet_y_3_2gf", "b5a9779c", "78.948"),
    )
)


MMDET = "https://download.openmmlab.com/mmdetection/v2.0"


def _of_torchvision(model: str, original: str, figure: str) -> KnownWeights:
    """A detector of torchvision's, which predicts by COCO's category ids."""
    return KnownWeights(
        name=f"{model}_coco.pth",
        model=model,
        original=f"{original}.pth",
        url=f"{TORCHVISION}/{original}.pth",
        source="torchvision, COCO train2017",
        num_classes=91,
        published=f"AP {figure} on COCO val2017",
        sha256=original.rpartition("-")[2],
        sha256_source="its file name",
        project="torchvision",
    )


def _of_mmdet(model: str, place: str, figure: str) -> KnownWeights:
    """A detector of MMDetection's, whose file lies at `place`.pth."""
    original = f"{place.rpartition('/')[2]}.pth"
    return KnownWeights(
        name=f"{model}_coco.pth",
        model=model,
        original=original,
        url=f"{MMDET}/{place}.pth",
        source="MMDetection, COCO train2017",
        num_classes=80,
        published=f"AP {figure} on COCO val2017",
        sha256=place.rpartition("-")[2],
        sha256_source="its file name",
        project="mmdet",
    )


# whole detectors of torchvision and MMDetection; the figures are those of their tables
DETECTORS = (
    _of_mmdet(
        "centernet_r18_mmdet",
        "centernet/centernet_resnet18_140e_coco/centernet_resnet18_140e_coco_20210705_093630-bb5b3bf7",
        "25.9",
    ),
    _of_mmdet(
        "centernet_r18_dcn_mmdet",
        "centernet/centernet_resnet18_dcnv2_140e_coco/centernet_resnet18_dcnv2_140e_coco_20210702_155131-c8cd631f",
        "29.5",
    ),
    _of_torchvision("fcos_r50_torchvision", "fcos_resnet50_fpn_coco-99b0c9b7", "39.2"),
    _of_mmdet(
        "fcos_r50_mmdet", "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa", "36.6"
    ),
    _of_torchvision("retinanet_r50_torchvision", "retinanet_resnet50_fpn_coco-eeacb38b", "36.4"),
    _of_torchvision("retinanet_r50_torchvision_v2", "retinanet_resnet50_fpn_v2_coco-5905b1c5", "41.5"),
    _of_mmdet(
        "retinanet_r50_mmdet", "retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e", "36.5"
    ),
    _of_mmdet(
        "yolof_r50_mmdet", "yolof/yolof_r50_c5_8x8_1x_coco/yolof_r50_c5_8x8_1x_coco_20210425_024427-8e864411", "37.5"
    ),
)

MEGVII = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"

# Megvii's YOLOX of the present release; the figures are those of its README
YOLOX = tuple(
    KnownWeights(
        name=f"{model}_coco.pth",
        model=model,
        original=f"{original}.pth",
        url=f"{MEGVII}/{original}.pth",
        source="Megvii's YOLOX 0.1.1rc0, COCO train2017",
        num_classes=80,
        published=f"AP {figure} on COCO val2017",
        project="yolox",
    )
    for model, original, figure in (
        ("yolox_nano", "yolox_nano", "25.8"),
        ("yolox_tiny", "yolox_tiny", "32.8"),
        ("yolox_s", "yolox_s", "40.5"),
        ("yolox_m", "yolox_m", "46.9"),
        ("yolox_l", "yolox_l", "49.7"),
        ("yolox_x", "yolox_x", "51.1"),
        ("yolox_darknet53", "yolox_darknet", "47.7"),
    )
)
LICENCES = {
    "mmdet": "Apache-2.0, as MMDetection states for its code and models; the pictures it was trained on have terms of their "
    "own",
    "paddle": "Apache-2.0, as PaddleDetection states for its code and models; the pictures it was trained on have terms of "
    "their own",
    "torchvision": "BSD-3-Clause for torchvision's code, whose README says that weights may have terms of their own, derived "
    "from the data that they were trained on",
    "yolox": "Apache-2.0, as Megvii states for YOLOX; the pictures it was trained on have terms of their own",
}


def all_known() -> tuple[KnownWeights, ...]:
    """Every file that is known by name."""
    return (*KNOWN, *DETECTORS, *YOLOX, *CLASSIFIERS)


def by_name(name: str) -> KnownWeights | None:
    """The known weights whose file under pretrained/ is called `name`, or None."""
    return next((known for known in all_known() if known.name == name), None)


def of_network(name: str) -> KnownWeights | None:
    """The whole weights that `name` means: those of this short name, or the first of the network of this name; or None."""
    whole = [known for known in all_known() if not known.backbone_only]
    named = [known for known in whole if known.short_name == name]
    return next(iter([*named, *(known for known in whole if known.model == name)]), None)


def by_original(original: str, project: str | None = None) -> KnownWeights | None:
    """The known weights that are made from a file called `original`, of `project` where that is given; or None."""
    projects = {known.project for known in all_known()} if project is None else {project}
    return next((known for known in all_known() if known.original == original and known.project in projects), None)


def find_known(place: str | Path) -> Path | None:
    """The weights that `place`, which is the name of a network or of a known file, means; None: it is no such name.

    Raises:
        FileNotFoundError: they are known and not there; saying what to type.
    """
    known = of_network(os.fspath(place))
    if known is None or known.path.is_file():
        return None if known is None else known.path
    raise FileNotFoundError(
        f"{place} means the weights {known.path} ({known.source}, {known.published}), which are not there. To fetch and "
        f"convert them: python -m public.weights.download {known.short_name}"
    )


def how_to_get(path: str) -> str:
    """What has to be put at `path`, relative to the repository, and how."""
    folder, _, name = path.replace("\\", "/").rpartition("/")
    known = by_name(name) if folder.endswith("pretrained") or not folder else None
    if known is None:
        return (
            "Put a checkpoint there: best.pth of a run, or weights that python -m public.weights.convert made. "
            "pretrained/README.md lists the weights that are known by name"
        )
    return (
        f"It is made from {known.original} ({known.source}). To fetch and convert it: python -m public.weights.download "
        f"{known.short_name}; or download {known.url} and run: {known.command}"
    )


def check_sha256(original: str, sha256: str, project: str | None = None) -> str:
    """Compares the sum of a file called `original` with the known one of `project`; returns a line for the report.

    Raises:
        ValueError: the sums differ; naming both.
    """
    known = by_original(original, project)
    if known is None:
        return "no file of the list in pretrained/README.md"
    if known.sha256 is None:
        return f"the name of a known file, {known.source}, of which no sum is known: not checked"
    if not sha256.startswith(known.sha256):
        raise ValueError(
            f"{original} has the sha256 {sha256}, but the known file of this name, {known.url}, has {known.sha256} "
            f"(according to {known.sha256_source}). Download it again, or rename it if it is meant to be another file"
        )
    return f"a known file, {known.source}; the sum is that of {known.sha256_source}"
