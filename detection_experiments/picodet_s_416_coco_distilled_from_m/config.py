"""PicoDet-s at 416 x 416 on COCO 2017, taught by PicoDet-m: 300 epochs, 192 images a step.

Paper: PP-PicoDet, arXiv 2111.00902; CWD, arXiv 2011.13256; LD, arXiv 2102.12252.
Recipe: that of picodet_s_416_coco (PaddleDetection, commit 666f597). The pair and its weights are this project's own: CWD on
    the normalised maps of the necks (temperature 1, weight 10) and LD on the distributions of the distances (temperature 10,
    weight 0.25), both stopped in the last 20 epochs, as mmyolo does for its RTMDet pairs, whose gain is 0.8 to 1.1 AP.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Of the 118,287 training images the 1,021 without an object to train on are left out, as in PaddleDetection;
    all 5,000 validation images are evaluated.
Command: torchrun --nproc_per_node=4 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 4 (the same 192 images a step and lr)
Starting weights: pretrained/lcnet_075_imagenet.pth, Paddle's PPLCNet_x0_75_pretrained, of which the backbone is taken
    (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Teacher: pretrained/picodet_m_416_coco.pth, PaddleDetection's picodet_m_416_coco_lcnet, AP 0.375.
Expected: not trained yet, and no figure is published. Without a teacher AP 0.325, published by PaddleDetection.
    On half of BCCD (docs/train.md) LD gave nothing beyond the seeds' spread and CWD did harm: they are here for what mmyolo
    found with larger sets.
Precision: float32, for both networks, as PaddleDetection's page without a teacher.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.distilled import CWD, LD, Distilled
from public.families.picodet import PicoDet
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop
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
    epochs=300,
    batch_size=192,
    lr=0.24,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=4e-5, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=300 / 610, warmup_start=0.1, horizon_epochs=300, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/lcnet_075_imagenet.pth",
    backbone_only=True,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(416, 416),
        resize="stretch",
        interpolation="cubic",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        RandomCrop(
            aspect_ratio=(0.5, 2.0),
            scale=(0.3, 1.0),
            thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
            num_attempts=50,
            allow_no_crop=True,
        ),
        RandomFlip(prob=0.5),
        ColorDistort(
            brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=0.5
        ),
    ),
    batch_transforms=(
        BatchRandomResize(
            sizes=(352, 384, 416, 448, 480),
            interpolations=("nearest", "linear", "area", "cubic", "lanczos"),
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
    detector=Distilled(
        student=PicoDet(
            backbone="lcnet_075",
            backbone_options=(),
            backbone_batchnorm="trained",
            neck="lc_pan",
            neck_blocks=1,
            channels=96,
            head_convs=2,
            activation="hardswish",
            num_classes=80,
            strides=(8, 16, 32, 64),
            reg_max=7,
            grid_cell_scale=5.0,
            grid_cell_offset=0.5,
            static_assigner_epochs=100,
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
        teacher=PicoDet(
            backbone="lcnet_150",
            backbone_options=(),
            backbone_batchnorm="trained",
            neck="lc_pan",
            neck_blocks=1,
            channels=128,
            head_convs=4,
            activation="hardswish",
            num_classes=80,
            strides=(8, 16, 32, 64),
            reg_max=7,
            grid_cell_scale=5.0,
            grid_cell_offset=0.5,
            static_assigner_epochs=100,
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
        teacher_weights="pretrained/picodet_m_416_coco.pth",
        teacher_precision="float32",
        feature=CWD(weight=10.0, temperature=1.0, normalise=True),
        logits=LD(weight=0.25, temperature=10.0, region=0.25),
        factor=1.0,
        stop_epoch=280,
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
