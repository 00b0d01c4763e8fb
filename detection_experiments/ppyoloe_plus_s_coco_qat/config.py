"""PPYOLOE+ s on COCO 2017, trained on as int8 computes it: 30 epochs, 64 images a step.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; quantisation: arXiv 1712.05877.
Recipe: PaddleDetection (commit 666f597), configs/slim/quant/ppyoloe_l_qat.yml, written for PPYOLOE l: 30 epochs, steps at 10
    and 20, 100 steps of warm-up, ranges that move by 0.9 a step. The network and its data are those of ppyoloe_plus_s_coco.
    The branches of its RepVGG blocks are merged before, as there.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Of the 118,287 training images the 1,021 without an object to train on are left out, as in PaddleDetection;
    all 5,000 validation images are evaluated.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step and lr, but BatchNorm then sees 8
    at a time)
Starting weights: pretrained/ppyoloe_plus_s_coco.pth, PaddleDetection's ppyoloe_plus_crn_s_80e_coco, AP 0.437
    (pretrained/README.md says how to make the file).
Expected: not trained yet. PaddleDetection publishes AP 0.488 of 0.509 for PPYOLOE l (configs/slim/README_en.md), and AP
    0.429 of 0.437 for this network by auto-compression.
Precision: float32; bf16 has fewer digits than the levels of int8 need.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.ppyoloe import PPYOLOE
from public.families.quantised import QAT, MovingRange, Quantised
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupMultiStep
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop, RandomExpand
from public.transforms.flip import RandomFlip

config = DetectionConfig(
    # data and training
    train_data=Coco(
        annotations="coco/annotations/instances_train2017.json",
        images="coco/train2017",
        classes=None,
        keep_empty_images=False,
    ),
    val_data=Coco(
        annotations="coco/annotations/instances_val2017.json",
        images="coco/val2017",
        classes=None,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=30,
    batch_size=64,
    lr=0.001,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=100 / 1832, warmup_start=0.0, milestones=(10.0, 20.0), gamma=0.1),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/ppyoloe_plus_s_coco.pth",
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=InputSpec(
        size=(640, 640),
        resize="stretch",
        interpolation="cubic",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    train_transforms=(
        ColorDistort(
            brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=0.5
        ),
        RandomExpand(ratio=(1.0, 4.0), fill=(124, 116, 104), apply_prob=0.5),
        RandomCrop(
            aspect_ratio=(0.5, 2.0),
            scale=(0.3, 1.0),
            thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
            num_attempts=50,
            allow_no_crop=True,
        ),
        RandomFlip(prob=0.5),
    ),
    batch_transforms=(
        BatchRandomResize(
            sizes=(320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768),
            interpolations=("nearest", "linear", "area", "cubic", "lanczos"),
        ),
    ),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=5,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=Quantised(
        quantisation=QAT(
            weight_bits=8,
            activation_bits=8,
            per_channel=True,
            observer=MovingRange(momentum=0.9),
            start_epoch=0,
            freeze_observers_epoch=20,
            freeze_batchnorm_epoch=15,
            float_layers=(),
        ),
        network=PPYOLOE(
            depth=0.33,
            width=0.50,
            use_alpha=True,
            activation="silu",
            backbone_channels=(64, 128, 256, 512, 1024),
            backbone_blocks=(3, 6, 6, 3),
            neck_channels=(768, 384, 192),
            neck_blocks=3,
            num_classes=80,
            strides=(32, 16, 8),
            reg_max=16,
            grid_cell_scale=5.0,
            grid_cell_offset=0.5,
            static_assigner_epochs=30,
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
            keep_top_k=300,
        ),
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
