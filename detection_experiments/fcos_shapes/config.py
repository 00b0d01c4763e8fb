"""FCOS with a ShuffleNetV2 backbone on the built-in drawn shapes: the demo of FCOS, minutes on one CPU core.

Paper: FCOS: A Simple and Strong Anchor-free Object Detector, arXiv 2006.09214, on three levels, with towers of two
    convolutions of 64 channels.
    The first eight epochs see the pictures at 96 x 96 pixels, the last four at 128 x 128, as in ppyoloe_xs_shapes.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: AP 0.728, AP50 0.935 after 12 epochs.
Hardware: one core of a 2-core CPU (Intel Xeon): 27 minutes beside six other jobs;
    at the 65 images/s of a core to itself, 6 minutes.
Measured here: torch 2.15.0, digest of the averaged weights 9b9783ce3f98e7e7 on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.02.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.fcos import FCOS
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import AdamW
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, Resize
from public.transforms.flip import RandomFlip
from public.transforms.rules import Until

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")

config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("shapes/train",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("shapes/val",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=None,
    epochs=12,
    batch_size=16,
    lr=8e-3,
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
    batch_transforms=(Until(epoch=8, transforms=(BatchRandomResize(sizes=(96,), interpolations=("linear",)),)),),
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
    threads=1,
    tf32=False,
    matmul_precision="highest",
)
