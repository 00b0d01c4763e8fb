"""PPYOLOE+ m on COCO 2017, taught by PPYOLOE+ l: 80 epochs, 64 images a step.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; FGD, arXiv 2111.11837.
Recipe: PaddleDetection (commit 666f597), configs/ppyoloe/distill/ppyoloe_plus_crn_m_80e_coco_distill.yml with
    configs/slim/distill/ppyoloe_plus_distill_l_distill_m.yml: that of ppyoloe_plus_m_coco at 640 x 640 pixels alone,
    and a teacher.
Total: 0.125 times the detector's own terms, 4 times those on the outputs (classes 1, boxes 2.5, distributions 0.5, KL of the
    class scores 20,000 at temperature 10) and those of FGD on the three maps of the neck. Once the task-aligned assigner is
    active the teacher's predictions decide which points learn an object. FGD's adapters are trained here; miemiedetection's
    optimizer does not know its own, so that they keep their initial values.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Of the 118,287 training images the 1,021 without an object to train on are left out, as in PaddleDetection;
    all 5,000 validation images are evaluated.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step and lr, but BatchNorm then sees 8
    at a time)
Starting weights: pretrained/ppyoloe_plus_m_objects365.pth, PaddleDetection's ppyoloe_crn_m_obj365_pretrained: the whole
    detector. Its class layers (365 classes) make room for new ones (80), and alpha, which it lacks, starts at 1.
    pretrained/README.md says how to make the file; from scratch: --starting_weights none
Teacher: pretrained/ppyoloe_plus_l_coco.pth, PaddleDetection's ppyoloe_plus_crn_l_80e_coco, AP 0.529.
Expected: AP 0.510, AP50 0.681 on val2017, AP 0.512 on test-dev, published by PaddleDetection
    (configs/ppyoloe/distill/README.md); without a teacher AP 0.498. Not trained by us: not trained yet.
    On half of BCCD (docs/train.md) neither FGD nor the terms on the outputs gave anything beyond the seeds' spread.
Precision: PaddleDetection trained with mixed precision (fp16); bf16 here, for both networks, which needs no loss scaling.
Weight decay: on everything but the scale and shift of BatchNorm, as in PaddleDetection: biases of convolutions and alpha
    are decayed.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.distilled import FGD, Distilled, PPYOLOELogits
from public.families.ppyoloe import PPYOLOE
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
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
    epochs=80,
    batch_size=64,
    lr=0.001,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=5, warmup_start=0.0, horizon_epochs=96, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/ppyoloe_plus_m_objects365.pth",
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
            sizes=(640,),
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
    detector=Distilled(
        student=PPYOLOE(
            depth=0.67,
            width=0.75,
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
        teacher=PPYOLOE(
            depth=1.00,
            width=1.00,
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
        teacher_weights="pretrained/ppyoloe_plus_l_coco.pth",
        teacher_precision="bf16",
        feature=FGD(
            weight=1.0,
            foreground=1e-5,
            background=5e-6,
            attention=1e-5,
            relation=5e-8,
            temperature=0.5,
            normalise=True,
        ),
        logits=PPYOLOELogits(weight=4.0, cls=1.0, iou=2.5, dfl=0.5, kl=20000.0, beta=2.0, temperature=10.0),
        factor=0.125,
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
