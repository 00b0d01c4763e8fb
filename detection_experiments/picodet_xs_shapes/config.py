"""PicoDet-xs on the built-in drawn shapes, from scratch: minutes on one CPU core.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: AP 0.720, AP50 0.918 after 9 epochs.
Hardware: one core of a 2-core CPU (Intel Xeon): 6.4 minutes of CPU time, 13 minutes beside other programs.
Measured here: torch 2.15.0, digest of the averaged weights 37ebe5c6668ba88f on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.01.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.picodet import PicoDet
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
    epochs=9,
    batch_size=16,
    lr=0.01,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=9, min_factor=0.0),
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
    detector=PicoDet(
        backbone="lcnet_035",
        backbone_options=(),
        backbone_batchnorm="trained",
        neck="lc_pan",
        neck_blocks=1,
        channels=96,
        head_convs=2,
        activation="hardswish",
        num_classes=6,
        strides=(8, 16, 32, 64),
        reg_max=7,
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
        loss_weight_iou=2.5,
        loss_weight_dfl=0.5,
        score_threshold=0.025,
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
