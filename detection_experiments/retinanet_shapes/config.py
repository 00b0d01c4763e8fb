"""RetinaNet with a ShuffleNetV2 backbone on the built-in drawn shapes: the demo of RetinaNet, minutes on one CPU core.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002, on three levels with anchors from 16 pixels on, with towers of
    two convolutions of 64 channels, GroupNorm and GIoU, as torchvision's second version has them.
    The first eight epochs see the pictures at 96 x 96 pixels, the last four at 128 x 128, as in ppyoloe_xs_shapes.
Data: `python -m public.datasets.shapes` draws it into data/shapes.
Command: python train.py
Expected: AP 0.709, AP50 0.951 after 12 epochs.
Hardware: one core of a 2-core CPU (Intel Xeon): 17 minutes beside four other jobs;
    at the 66 images/s of a core to itself, 6 minutes.
Measured here: torch 2.15.0, digest of the averaged weights 435dca7380d6091e on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.02.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.retinanet import RetinaNet
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
    detector=RetinaNet(
        backbone="shufflenetv2_x1_0",
        backbone_options=(),
        backbone_batchnorm="trained",
        num_classes=6,
        backbone_strides=(8, 16, 32),
        num_extra_levels=0,
        extra_from="backbone",
        relu_before_extra=True,
        neck_channels=64,
        head_convs=2,
        head_groups=16,
        anchor_scales=(2.0, 2 * 2 ** (1 / 3), 2 * 2 ** (2 / 3)),
        anchor_ratios=(0.5, 1.0, 2.0),
        anchors_rounded=False,
        anchor_offset=0.0,
        anchor_steps="strides",
        box_std=(1.0, 1.0, 1.0, 1.0),
        min_log_size=None,
        positive_iou=0.5,
        negative_iou=0.4,
        low_quality="own_object",
        focal_alpha=0.25,
        focal_gamma=2.0,
        box_loss="giou",
        smooth_l1_beta=0.0,
        normaliser="batch",
        loss_weight_cls=1.0,
        loss_weight_box=1.0,
        drop_empty=True,
        score_threshold=0.05,
        nms_iou=0.5,
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
