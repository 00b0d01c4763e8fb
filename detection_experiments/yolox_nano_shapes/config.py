"""YOLOX-nano on the built-in drawn shapes: minutes on one CPU core, without mosaic.

Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: AP 0.554, AP50 0.839 after 12 epochs.
Hardware: one core of a 2-core CPU (Intel Xeon): 7.5 minutes of CPU time, 10 minutes beside other programs.
Measured here: torch 2.15.0, digest of the averaged weights 7c554f41b1a62b63 on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.01.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.yolox import YOLOX
from public.input import InputSpec
from public.training.ema import RampedEMA
from public.training.optimizers import AdamW
from public.training.schedules import QuadraticWarmupCosine
from public.transforms.detection import BatchRandomResizeEvery
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")

config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("shapes/train",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("shapes/val",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=None,
    epochs=12,
    batch_size=16,
    lr=0.004,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=QuadraticWarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=11, min_factor=0.05),
    clip_norm=None,
    ema=RampedEMA(decay=0.998, ramp_updates=200),
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=InputSpec(
        size=(128, 128),
        resize="letterbox",
        interpolation="linear",
        padding=114,
        color_order="bgr",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    train_transforms=(RandomFlip(prob=0.5), Letterbox(size=(128, 128), interpolation="linear", padding=114)),
    batch_transforms=(BatchRandomResizeEvery(sizes=(96, 128, 160), interpolations=("linear",), every=10),),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=4,
    evaluation_batch_size=32,
    early_stop=None,
    # network
    detector=YOLOX(
        backbone="csp_darknet_nano",
        backbone_options=(("activation", "silu"), ("bn_eps", 1e-3), ("bn_momentum", 0.03)),
        neck="pafpn",
        neck_blocks=1,
        head_channels=64,
        use_depthwise=True,
        activation="silu",
        bn_eps=1e-3,
        bn_momentum=0.03,
        num_classes=6,
        strides=(8, 16, 32),
        centre_radius=1.5,
        ota_top_k=10,
        ota_iou_weight=3.0,
        l1_from_epoch=11,
        loss_weight_iou=5.0,
        loss_weight_obj=1.0,
        loss_weight_cls=1.0,
        loss_weight_l1=1.0,
        one_class_a_box=False,
        clip_to_picture=True,
        score_threshold=0.01,
        nms_iou=0.65,
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
