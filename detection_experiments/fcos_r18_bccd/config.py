"""FCOS with ResNet-18 on BCCD, 364 real blood-cell images, from scratch on one CPU core; beside ppyoloe_xs_bccd.

Paper: FCOS: A Simple and Strong Anchor-free Object Detector, arXiv 2006.09214, on three levels, with towers of two
    convolutions of 128 channels.
Data: Shenggan/BCCD_Dataset (MIT) in VOC layout: 205 training, 87 validation, 72 test images.
Command: python train.py --data_root <folder that holds BCCD/>; the test split, once: ./test.sh --split test
Expected: AP50 0.822, AP 0.524 on val after 20 epochs, and AP50 0.814, AP 0.512 on test, scored once. Beside it,
    ppyoloe_xs_bccd: AP50 0.892 on val, 0.907 on test, with 40 epochs at 320 x 416.
Hardware: one core of a 2-core CPU (Intel Xeon), 12.8 minutes of CPU time; 24 minutes beside other work.
Measured here: torch 2.15.0, digest of the averaged weights 89bb57897afdf50b on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP may differ by 0.01.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.fcos import FCOS
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import AdamW
from public.training.schedules import WarmupCosine
from public.transforms.detection import ColorDistort, RandomCrop, Resize
from public.transforms.flip import RandomFlip

CLASSES = ("Platelets", "RBC", "WBC")

config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("BCCD/train",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("BCCD/val",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=Voc(sources=("BCCD/test",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    epochs=20,
    batch_size=8,
    lr=2e-3,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=2, warmup_start=0.0, horizon_epochs=20, min_factor=0.0),
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
        size=(192, 256),
        resize="stretch",
        interpolation="linear",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        ColorDistort(
            brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-10.0, 10.0), apply_prob=0.5
        ),
        RandomCrop(
            aspect_ratio=(0.5, 2.0),
            scale=(0.5, 1.0),
            thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
            num_attempts=50,
            allow_no_crop=True,
        ),
        RandomFlip(prob=0.5),
        Resize(size=(192, 256), interpolation="linear"),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco", "voc", "voc07"),
    best_metric="AP50",
    evaluation_interval=5,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=FCOS(
        backbone="resnet18",
        backbone_options=(),
        backbone_batchnorm="trained",
        num_classes=3,
        backbone_strides=(8, 16, 32),
        num_extra_levels=0,
        extra_from="neck",
        relu_before_extra=True,
        neck_channels=128,
        head_convs=2,
        head_groups=32,
        head_conv_bias=True,
        use_scales=True,
        centreness_on="box",
        point_offset=0.5,
        point_steps="strides",
        raw_distances="relu_strides",
        range_limits=(32.0, 64.0),
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
