"""PPYOLOE-xs on BCCD, blood cells, 85 % of the weights of its pruned layers gone: 40 epochs.

Differs from ppyoloe_xs_bccd_pruned75: ratio, initial_ratio.
Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; pruning: arXiv 1710.01878.
Data: Shenggan/BCCD_Dataset (MIT) in VOC layout: 205 training, 87 validation, 72 test images.
Command: python train.py --data_root <folder that holds BCCD/>; the test split, once: ./test.sh --split test
Starting weights: ppyoloe_xs_bccd, the best of its newest run, which has to be trained first: AP50 0.896 on val.
Expected: AP50 0.894 on val, which chose the checkpoint (epoch 40), and AP50 0.902, AP 0.604 on test, scored once; from a
    dense run with AP50 0.896 on val and 0.910 on test.  29.6 % of the MACs have a weight that is not zero.
Hardware: one core of a 2-core CPU (Intel Xeon with AMX): 8 minutes.
Measured here: torch 2.15.0, digest of the averaged weights 7c9f9f708bfe0786, on an Intel Xeon with AVX512 and AMX.
Speed: dense kernels gain nothing by zeros; see docs/quantise.md.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.ppyoloe import PPYOLOE
from public.families.pruned import GMP, Pruned
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
    epochs=40,
    batch_size=8,
    lr=2e-3,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=40, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.998),
    starting_weights="ppyoloe_xs_bccd",
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=InputSpec(
        size=(320, 416),
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
        Resize(size=(320, 416), interpolation="linear"),
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
    detector=Pruned(
        pruning=GMP(
            ratio=0.85,
            initial_ratio=0.2,
            stable_epochs=0,
            pruning_epochs=20,
            steps=100,
            pointwise_only=False,
            spared=(),
        ),
        network=PPYOLOE(
            depth=0.16,
            width=0.25,
            use_alpha=False,
            activation="silu",
            backbone_channels=(64, 128, 256, 512, 1024),
            backbone_blocks=(3, 6, 6, 3),
            neck_channels=(768, 384, 192),
            neck_blocks=3,
            num_classes=3,
            strides=(32, 16, 8),
            reg_max=16,
            grid_cell_scale=5.0,
            grid_cell_offset=0.5,
            static_assigner_epochs=0,
            atss_top_k=9,
            tal_top_k=13,
            tal_alpha=1.0,
            tal_beta=6.0,
            varifocal_alpha=0.75,
            varifocal_gamma=2.0,
            loss_weight_cls=1.0,
            loss_weight_iou=2.5,
            loss_weight_dfl=0.5,
            score_threshold=0.01,
            nms_iou=0.7,
            nms_top_k=1000,
            keep_top_k=100,
        ),
    ),
    # machinery
    precision="bf16",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
)
