"""YOLOF with ResNet-50 on COCO 2017, shorter side 800 pixels, from an ImageNet backbone: 12 epochs, 64 images a step.

Paper: You Only Look One-level Feature, arXiv 2103.09460.
Recipe: MMDetection 3.3.0, configs/yolof/yolof_r50-c5_8xb8-1x_coco.py.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Training images without an object are left out.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step; BatchNorm of encoder and head sees
    8 at a time either way)
Starting weights: pretrained/resnet50_imagenet.pth, torchvision's resnet50-0676ba61.pth, of which the backbone is taken
    (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Expected: AP 0.375 on val2017, published by MMDetection for its own form of the recipe on 8 GPUs; the paper has 0.377. Not
    trained by us. MMDetection's own weights: python -m public.weights.download yolof_r50_mmdet.
Otherwise than the published run: the backbone's weights are torchvision's, whose second convolutions stride, on RGB pictures
    with mean and standard deviation (there MSRA's, whose first convolutions stride, on BGR pictures without deviation);
    an image without a positive anchor counts as none in the normaliser (there as one); black comes in where a picture is
    shifted (there too, before the mean is taken off). Mixed precision is bf16 (there float32).
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.yolof import YOLOF
from public.input import InputSpec
from public.resizing import ShorterSide
from public.training.optimizers import SGD
from public.training.schedules import WarmupMultiStep
from public.transforms.flip import RandomFlip
from public.transforms.geometric import RandomShift, ResizeShorterSide

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
    epochs=12,
    batch_size=64,
    lr=0.12,
    accumulate=1,
    optimizer=SGD(
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        decay_normalisation=False,
        decay_bias=True,
        lr_factors=(("backbone.", 0.334),),
    ),
    schedule=WarmupMultiStep(warmup_epochs=1500 / 1832, warmup_start=0.00066667, milestones=(8, 11), gamma=0.1),
    clip_norm=None,
    ema=None,
    starting_weights="pretrained/resnet50_imagenet.pth",
    backbone_only=True,
    freeze=("backbone.stem", "backbone.stages.0"),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(800, 1333),
        resize=ShorterSide(rounding="nearest", multiple=32),
        interpolation="linear",
        padding="mean",
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        ResizeShorterSide(shorter_sides=(800,), longer_side=1333, rounding="nearest", interpolation="linear"),
        RandomFlip(prob=0.5),
        RandomShift(prob=0.5, max_shift_px=32, filter_thr_px=1, fill=(0, 0, 0)),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=1,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=YOLOF(
        backbone="resnet50",
        backbone_options=(),
        backbone_batchnorm="frozen",
        stride=32,
        encoder_channels=512,
        encoder_block_channels=128,
        encoder_dilations=(2, 4, 6, 8),
        num_class_convs=2,
        num_box_convs=4,
        activation="relu",
        num_classes=80,
        anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_offset=0.0,
        max_shift=32.0,
        num_matches=4,
        min_positive_iou=0.15,
        max_negative_iou=0.7,
        focal_alpha=0.25,
        focal_gamma=2.0,
        loss_weight_cls=1.0,
        loss_weight_box=1.0,
        empty_image_counts=False,
        score_threshold=0.05,
        nms_iou=0.6,
        nms_top_k=1000,
        keep_top_k=100,
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
