"""CenterNet with a ShuffleNetV2 backbone on the built-in drawn shapes: the demo of CenterNet, minutes on one CPU core.

Paper: Objects as Points, arXiv 1904.07850, with one enlargement, of the backbone's map of stride 8.
    The first six epochs see the pictures at 96 x 96 pixels, the last three at 128 x 128, as in ppyoloe_xs_shapes.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: AP 0.713, AP50 0.964 after 9 epochs.
Hardware: one core of a 2-core CPU (Intel Xeon): 11 minutes beside four other jobs;
    at the 53 images/s of a core to itself, 6 minutes.
Measured here: torch 2.15.0, digest of the averaged weights fa6ea165151236bd on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.02.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.centernet import CenterNet
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
    epochs=9,
    batch_size=16,
    lr=4e-3,
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
    batch_transforms=(Until(epoch=6, transforms=(BatchRandomResize(sizes=(96,), interpolations=("linear",)),)),),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=3,
    evaluation_batch_size=32,
    early_stop=None,
    # network
    detector=CenterNet(
        backbone="shufflenetv2_x1_0",
        backbone_options=(),
        backbone_batchnorm="trained",
        backbone_stride=8,
        neck_channels=(64,),
        deformable="gather",
        head_channels=64,
        num_classes=6,
        radius_overlap=0.3,
        radius_rule="solved",
        focal_alpha=2.0,
        focal_beta=4.0,
        shared_cell="each",
        box_normaliser="objects",
        loss_weight_heatmap=1.0,
        loss_weight_size=0.1,
        loss_weight_offset=1.0,
        score_threshold=0.0,
        nms_iou=None,
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
