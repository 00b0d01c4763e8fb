"""YOLOF with ShuffleNetV2 x1.0, Coordinate Attention, Meta-ACON on Pascal VOC 2007: 36 epochs, 16 images a step.

Paper: You Only Look One-level Feature, arXiv 2103.09460;
    ShuffleNet V2, arXiv 1807.11164; Coordinate Attention, arXiv 2103.02907; ACON, arXiv 2009.04759.
Recipe: lmk123568/TinyDet (commit 8f67d60), configs/yolof/yolof_voc07.py,
    whose list of plans names this backbone.
Data: VOCdevkit/VOC2007 under the data root: trainval is trained on, without difficult objects; test evaluated as the VOC kit
    does, where a difficult object is neither to be found nor wrong to be found: 11-point AP (voc07_AP50), which counts
    here, and AP by area (voc_AP50).
Command: torchrun --nproc_per_node=2 train.py --data_root <folder that holds VOCdevkit/>
    on one GPU: python train.py --data_root ... --accumulate 2 (the same 16 images a step)
Starting values: the network's own. Nobody has published weights of this network. VOC 2007 alone is few pictures to start
    from nothing with.
Expected: not trained yet; the source repository planned this network and has no code or figure of it.
    Nothing is frozen in a backbone that has learnt nothing.
"""

from public.config import DetectionConfig
from public.datasets.voc import VOC_CLASSES, Voc
from public.families.yolof import YOLOF
from public.input import InputSpec
from public.resizing import ShorterSide
from public.training.optimizers import SGD
from public.training.schedules import WarmupMultiStep
from public.transforms.flip import RandomFlip
from public.transforms.geometric import RandomShift, ResizeShorterSide

config = DetectionConfig(
    # data and training
    train_data=Voc(
        sources=("VOCdevkit/VOC2007/trainval",), classes=VOC_CLASSES, use_difficult=False, keep_empty_images=False
    ),
    val_data=Voc(sources=("VOCdevkit/VOC2007/test",), classes=VOC_CLASSES, use_difficult=False, keep_empty_images=True),
    test_data=None,
    epochs=36,
    batch_size=16,
    lr=0.03,
    accumulate=1,
    optimizer=SGD(
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        decay_normalisation=False,
        decay_bias=True,
        lr_factors=(("backbone.", 0.334),),
    ),
    schedule=WarmupMultiStep(warmup_epochs=2000 / 313, warmup_start=0.00066667, milestones=(24, 33), gamma=0.1),
    clip_norm=None,
    ema=None,
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(600, 1000),
        resize=ShorterSide(rounding="nearest", multiple=32),
        interpolation="linear",
        padding="mean",
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        ResizeShorterSide(shorter_sides=(600,), longer_side=1000, rounding="nearest", interpolation="linear"),
        RandomFlip(prob=0.5),
        RandomShift(prob=0.5, max_shift_px=32, filter_thr_px=1, fill=(0, 0, 0)),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("voc07", "voc", "coco"),
    best_metric="voc07_AP50",
    evaluation_interval=6,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=YOLOF(
        backbone="shufflenetv2_x1_0",
        backbone_options=(("attention", "coordinate"), ("activation", "meta_acon")),
        backbone_batchnorm="trained",
        stride=32,
        encoder_channels=512,
        encoder_block_channels=128,
        encoder_dilations=(2, 4, 6, 8),
        num_class_convs=2,
        num_box_convs=4,
        activation="relu",
        num_classes=20,
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
