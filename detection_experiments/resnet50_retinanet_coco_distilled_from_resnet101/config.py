"""RetinaNet with ResNet-50 on COCO 2017, pictures of 667 pixels, taught by ResNet-101: 12 epochs, 24 images a step.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002; CrossKD, arXiv 2306.11369.
Recipe: that of resnet50_retinanet_coco_resize667 (SimpleAICV, commit d25e887), and a teacher: what the student has after the
    third of the four layers of each tower goes through the teacher's fourth and its predictions. The weights of the two terms
    are 1, the power of the quality focal loss is 1: choices of this project. The paper's GFL gains 3.5 AP (40.2 to 43.7).
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Training images without an object stay in, as in the source.
Command: torchrun --nproc_per_node=2 train.py --data_root <folder that holds coco/>
    after python detection_experiments/resnet101_retinanet_coco_resize667/train.py; on one GPU with --accumulate 2 (the same
    24 images a step; BatchNorm sees 12 at a time)
Starting weights: pretrained/resnet50_imagenet.pth, torchvision's resnet50-0676ba61.pth, of which the backbone is taken
    (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Teacher: the best weights of detection_experiments/resnet101_retinanet_coco_resize667.
Expected: not trained yet, and no figure is published for this pair. Without a teacher AP 0.293, published by SimpleAICV.
    A small FCOS that learns in half its epochs gained 26 points by CrossKD (docs/train.md).
Precision: bf16, for both networks.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.distilled import CrossKD, Distilled
from public.families.retinanet import RetinaNet
from public.input import InputSpec
from public.training.optimizers import AdamW
from public.training.schedules import WarmupMultiStep
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox, RandomCropKeepingObjects, RandomTranslate

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
    epochs=12,
    batch_size=24,
    lr=1e-4,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_normalisation=True, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=0, warmup_start=0.0, milestones=(), gamma=0.1),
    clip_norm=0.1,
    ema=None,
    starting_weights="pretrained/resnet50_imagenet.pth",
    backbone_only=True,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(667, 667),
        resize="letterbox",
        interpolation="linear",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        RandomFlip(prob=0.5),
        RandomCropKeepingObjects(prob=0.5),
        RandomTranslate(prob=0.5, fill=(0, 0, 0)),
        Letterbox(size=(667, 667), interpolation="linear", padding=0),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=5,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=Distilled(
        student=RetinaNet(
            backbone="resnet50",
            backbone_options=(),
            backbone_batchnorm="trained",
            num_classes=80,
            backbone_strides=(8, 16, 32),
            num_extra_levels=2,
            extra_from="backbone",
            relu_before_extra=True,
            neck_channels=256,
            head_convs=4,
            head_groups=None,
            anchor_scales=(4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)),
            anchor_ratios=(0.5, 1.0, 2.0),
            anchors_rounded=False,
            anchor_offset=0.5,
            anchor_steps="strides",
            box_std=(0.1, 0.1, 0.2, 0.2),
            min_log_size=None,
            positive_iou=0.5,
            negative_iou=0.4,
            low_quality="off",
            focal_alpha=0.25,
            focal_gamma=2.0,
            box_loss="smooth_l1",
            smooth_l1_beta=1 / 9,
            normaliser="batch",
            loss_weight_cls=1.0,
            loss_weight_box=0.25,
            drop_empty=True,
            score_threshold=0.05,
            nms_iou=0.5,
            nms_top_k=1000,
            keep_top_k=100,
        ),
        teacher=RetinaNet(
            backbone="resnet101",
            backbone_options=(),
            backbone_batchnorm="trained",
            num_classes=80,
            backbone_strides=(8, 16, 32),
            num_extra_levels=2,
            extra_from="backbone",
            relu_before_extra=True,
            neck_channels=256,
            head_convs=4,
            head_groups=None,
            anchor_scales=(4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)),
            anchor_ratios=(0.5, 1.0, 2.0),
            anchors_rounded=False,
            anchor_offset=0.5,
            anchor_steps="strides",
            box_std=(0.1, 0.1, 0.2, 0.2),
            min_log_size=None,
            positive_iou=0.5,
            negative_iou=0.4,
            low_quality="off",
            focal_alpha=0.25,
            focal_gamma=2.0,
            box_loss="smooth_l1",
            smooth_l1_beta=1 / 9,
            normaliser="batch",
            loss_weight_cls=1.0,
            loss_weight_box=0.25,
            drop_empty=True,
            score_threshold=0.05,
            nms_iou=0.5,
            nms_top_k=1000,
            keep_top_k=100,
        ),
        teacher_weights="detection_experiments/resnet101_retinanet_coco_resize667",
        teacher_precision="bf16",
        feature=None,
        logits=CrossKD(weight=1.0, cls=1.0, box=1.0, beta=1.0, layers=3),
        factor=1.0,
        stop_epoch=None,
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
