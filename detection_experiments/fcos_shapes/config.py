"""FCOS with a ShuffleNetV2 backbone on the built-in drawn shapes: the demo of FCOS, minutes on two CPU cores.

Paper: FCOS: A Simple and Strong Anchor-free Object Detector, arXiv 2006.09214, on three levels, with towers of two
    convolutions of 64 channels.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: not trained yet; AP50 at least 0.80 within 15 minutes on two cores is what the page is made for. A trial of 9
    epochs had AP50 0.45 in its fourth, at nearly the full rate and without the average (100 validation images).
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.fcos import FCOS
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import AdamW
from public.training.schedules import WarmupCosine
from public.transforms.detection import Resize
from public.transforms.flip import RandomFlip

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")

config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("shapes/train",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("shapes/val",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=None,
    epochs=12,
    batch_size=16,
    lr=4e-3,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=12, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.998),
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=InputSpec(
        size=(128, 128),
        resize="stretch",
        interpolation="linear",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(RandomFlip(prob=0.5), Resize(size=(128, 128), interpolation="linear")),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=4,
    evaluation_batch_size=32,
    early_stop=None,
    # network
    detector=FCOS(
        backbone="shufflenetv2_x1_0",
        backbone_options=(),
        backbone_batchnorm="trained",
        num_classes=6,
        backbone_strides=(8, 16, 32),
        num_extra_levels=0,
        extra_from="neck",
        relu_before_extra=True,
        neck_channels=64,
        head_convs=2,
        head_groups=16,
        head_conv_bias=True,
        use_scales=True,
        centreness_on="box",
        point_offset=0.5,
        point_steps="strides",
        raw_distances="relu_strides",
        range_limits=(24.0, 48.0),
        range_ends="closed",
        centre_radius=1.5,
        area_rounding=None,
        focal_alpha=0.25,
        focal_gamma=2.0,
        box_loss="giou",
        box_weighted_by_centreness=True,
        box_normaliser="centreness",
        loss_weight_cls=1.0,
        loss_weight_box=1.0,
        loss_weight_centreness=1.0,
        score="sqrt",
        candidates_by="score",
        drop_empty=True,
        score_threshold=0.05,
        nms_iou=0.6,
        nms_top_k=1000,
        keep_top_k=100,
    ),
    # machinery
    precision="float32",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=2,
    tf32=False,
    matmul_precision="highest",
)
