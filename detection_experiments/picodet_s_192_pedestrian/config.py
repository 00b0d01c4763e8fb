"""PicoDet-s at 192 x 192 on persons, from an ImageNet backbone: 300 epochs, 256 images a step.

Differs from picodet_s_320_pedestrian: size, sizes, atss_top_k.
Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
Recipe: PaddleDetection (commit 666f597), configs/picodet/application/pedestrian_detection/picodet_s_192_lcnet_pedestrian.yml.
Data: persons of AI Challenger and COCO train2017, one class, in pedestrian/ under the data root: PaddleDetection's
    annotations/aic_coco_train_cocoformat.json with its pictures in train/; COCO val2017 in val2017/, with
    annotations/person_val2017.json, which is instances_val2017.json with the category person alone.
Command: torchrun --nproc_per_node=4 train.py --data_root <folder that holds pedestrian/>
    on one GPU: python train.py --data_root ... --accumulate 4 (the same 256 images a step and lr)
Starting weights: pretrained/lcnet_075_imagenet.pth, Paddle's PPLCNet_x0_75_pretrained, of which the backbone is taken
    (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Expected: not trained yet; of this network no figure is known here. Its predecessor of 2021, with an ESNet, has
    AP 0.290, published by PaddleDetection (configs/keypoint/tiny_pose/README_en.md).
Schedule: the original's first 300 steps warm up, which are about 0.3 of an epoch of these pictures.
Precision: float32, as PaddleDetection's; its published weights evaluate 0.004 lower in bf16.
Weight decay: on everything but the scale and shift of BatchNorm; PaddleDetection decays these too in the 1x1 convolutions
    before the neck, its strided convolutions and the alignment branch, and in no others.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
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
        annotations="pedestrian/annotations/aic_coco_train_cocoformat.json",
        images="pedestrian/train",
        classes=("person",),
        keep_empty_images=False,
    ),
    val_data=Coco(
        annotations="pedestrian/annotations/person_val2017.json",
        images="pedestrian/val2017",
        classes=("person",),
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=300,
    batch_size=256,
    lr=0.32,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=4e-5, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=0.3, warmup_start=0.1, horizon_epochs=300, min_factor=0.0),
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
        size=(192, 192),
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
            sizes=(128, 160, 192, 224, 256),
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
    detector=PicoDet(
        backbone="lcnet_075",
        backbone_options=(),
        backbone_batchnorm="trained",
        neck="lc_pan",
        neck_blocks=1,
        channels=96,
        head_convs=2,
        activation="hardswish",
        num_classes=1,
        strides=(8, 16, 32, 64),
        reg_max=7,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=100,
        atss_top_k=4,
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
