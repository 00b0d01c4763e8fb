"""YOLOX-m at 640 x 640 on COCO 2017, from scratch: 300 epochs, 64 images a step.

Differs from yolox_s_coco: backbone, neck_blocks, head_channels.
Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430.
Recipe: Megvii's YOLOX (commit 6ddff48), exps/default/yolox_m.py.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. All 118,287 training images, those without an object too, and all 5,000 validation images.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step and lr, and BatchNorm sees 8 at a
    time, as there). --picture_cache memory or disk keeps pictures decoded; no bit changes.
Expected: AP 0.469 on val2017, AP 0.472 on test-dev, published by Megvii (README.md). Not trained by us.
Schedule: lr rises with the square of the step for 5 epochs, falls along a cosine until epoch 285, and stays at 0.05 of its
    peak. From epoch 284 on (Megvii's count is one short of the schedule's) no mosaic, and L1 of the box codes.
Evaluation: every 10 epochs; Megvii also evaluates every one of the last 16.
Objects: all of a mosaic are trained; Megvii keeps the first 120.
Precision: float32; Megvii trained with mixed precision (fp16).
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.yolox import YOLOX
from public.input import InputSpec
from public.training.ema import RampedEMA
from public.training.optimizers import SGD
from public.training.schedules import QuadraticWarmupCosine
from public.transforms.detection import BatchRandomResizeEvery, DropThin, HSVJitter
from public.transforms.fitting import FitWhenRead
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox
from public.transforms.mosaic import BlendPartner, Mosaic, RandomAffine
from public.transforms.rules import Until

PLAIN_FROM = 284  # the epoch, from 0, from which on there is no mosaic, and L1 of the box codes

config = DetectionConfig(
    # data and training
    train_data=Coco(
        annotations="coco/annotations/instances_train2017.json",
        images="coco/train2017",
        classes=None,
        keep_empty_images=True,
    ),
    val_data=Coco(
        annotations="coco/annotations/instances_val2017.json",
        images="coco/val2017",
        classes=None,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=300,
    batch_size=64,
    lr=0.01,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_normalisation=False, decay_bias=False),
    schedule=QuadraticWarmupCosine(warmup_epochs=5, warmup_start=0.0, horizon_epochs=285, min_factor=0.05),
    clip_norm=None,
    ema=RampedEMA(decay=0.9998, ramp_updates=2000),
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(640, 640),
        resize="letterbox_by_ratio",
        interpolation="linear",
        padding=114,
        color_order="bgr",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    train_transforms=(
        FitWhenRead(size=(640, 640), interpolation="linear", use_reduced=True),
        Until(
            epoch=PLAIN_FROM,
            transforms=(
                Mosaic(
                    size=(640, 640),
                    prob=1.0,
                    center=(0.5, 1.5),
                    affine=RandomAffine(
                        rotation=10.0, scale=(0.1, 2.0), shear=2.0, translate=0.1, fill=(114, 114, 114)
                    ),
                ),
                BlendPartner(prob=1.0, scale=(0.5, 1.5), flip_prob=0.5, fill=(114, 114, 114)),
            ),
        ),
        HSVJitter(hue=5, saturation=30, value=30, apply_prob=0.5),
        RandomFlip(prob=0.5),
        Letterbox(size=(640, 640), interpolation="linear", padding=114),
        DropThin(min_side=1.0),
    ),
    batch_transforms=(
        BatchRandomResizeEvery(
            sizes=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
            interpolations=("linear",),
            every=10,
        ),
    ),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=10,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=YOLOX(
        backbone="csp_darknet_m",
        backbone_options=(("activation", "silu"), ("bn_eps", 1e-3), ("bn_momentum", 0.03)),
        neck="pafpn",
        neck_blocks=2,
        head_channels=192,
        use_depthwise=False,
        activation="silu",
        bn_eps=1e-3,
        bn_momentum=0.03,
        num_classes=80,
        strides=(8, 16, 32),
        centre_radius=1.5,
        ota_top_k=10,
        ota_iou_weight=3.0,
        l1_from_epoch=PLAIN_FROM,
        loss_weight_iou=5.0,
        loss_weight_obj=1.0,
        loss_weight_cls=1.0,
        loss_weight_l1=1.0,
        one_class_a_box=True,
        clip_to_picture=False,
        score_threshold=0.001,
        nms_iou=0.65,
        nms_top_k=None,
        keep_top_k=None,
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
