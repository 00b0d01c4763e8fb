"""PPYOLOE-xs on the built-in drawn shapes: the demo, minutes on two CPU cores.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.  The size xs (depth 0.16, width 0.25) is miemiedetection's.
    The first four epochs see the pictures at 96 x 96 pixels, where a step takes two thirds of its time; the last three at
    the 128 x 128 of the evaluation.  So large shapes are learnt cheaply, small ones at the end: progressive resizing, as
    in EfficientNetV2, arXiv 2104.00298.  Distances end at 8 strides, beyond all shapes, so that the flat distributions of
    the first step mean 4, about what the shapes have; the boxes' terms weigh four times as much as in the paper; and the
    squares of the gradients are averaged over 50 steps (beta 0.98), as befits 875 in all: +0.001, +0.014, +0.015 AP,
    measured with an epoch more at 96 pixels.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Hardware: one core of a 2-core CPU (Intel Xeon).
Expected: AP 0.809, AP50 0.963 after 7 epochs, AP 0.096 after 100 steps (--max_steps 100); with seeds 0 to 4 AP 80.29 +- 0.41
    points, so that two such pages differ by more than chance from 0.60 points on.
Measured here: torch 2.15.0, digest of the averaged weights 2d013138a875214f on an Intel Xeon with AVX512.  Other CPUs round
    sums in another way: AP 0.802, digest befd68870eeeb6da with the instructions of one that has AVX2 only.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.ppyoloe import PPYOLOE
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
    epochs=7,
    batch_size=16,
    lr=0.03,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.98), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=7, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.996),
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
    batch_transforms=(Until(epoch=4, transforms=(BatchRandomResize(sizes=(96,), interpolations=("linear",)),)),),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=7,
    evaluation_batch_size=32,
    early_stop=None,
    # network
    detector=PPYOLOE(
        depth=0.16,
        width=0.25,
        use_alpha=False,
        activation="silu",
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_blocks=(3, 6, 6, 3),
        neck_channels=(768, 384, 192),
        neck_blocks=3,
        num_classes=6,
        strides=(32, 16, 8),
        reg_max=8,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=1,
        atss_top_k=9,
        tal_top_k=13,
        tal_alpha=1.0,
        tal_beta=6.0,
        varifocal_alpha=0.75,
        varifocal_gamma=2.0,
        loss_weight_cls=1.0,
        loss_weight_iou=10.0,
        loss_weight_dfl=2.0,
        score_threshold=0.01,
        nms_iou=0.7,
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
