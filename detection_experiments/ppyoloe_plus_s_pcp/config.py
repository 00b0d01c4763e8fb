"""PPYOLOE+ s on a set of persons, cars and pets in COCO layout, from COCO weights: 30 epochs, 24 images a step.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250. PPYOLOE+: a learnt factor alpha on the 1x1 branches of the
    backbone, images in [0, 1] without mean and std.
Recipe: miemiedetection (commit 7193fa8), exps/ppyoloe_plus/ppyoloe_plus_crn_s_pcp.py; the five class names are those of its
    class_names/pcp_classes.txt.
Data: not public. PersonCarPet/ under the data root: annotations/<the two json files named below>, pcp_train/ (22,131
    images, 121,576 boxes), pcp_val/ (1,871 images, 11,892 boxes). For a set of your own, change files, classes and
    num_classes.
Command: torchrun --nproc_per_node=2 train.py --data_root <folder that holds PersonCarPet/>
    on one GPU: python train.py --data_root ...
Starting weights: pretrained/ppyoloe_plus_s_coco.pth, PaddleDetection's ppyoloe_plus_crn_s_80e_coco (pretrained/README.md
    says how to make the file); its class layers (80 classes) make room for new ones (5). The original also starts from
    Objects365 weights: --starting_weights pretrained/ppyoloe_plus_s_objects365.pth
Expected: not trained yet; the original leaves its results blank.
Precision: bf16; the original's commands are in float32 or fp16. It keeps one class for each box; here a box may have
    several.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.ppyoloe import PPYOLOE
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop, RandomExpand
from public.transforms.flip import RandomFlip

CLASSES = ("person", "car", "two_wheel", "pet", "box")

config = DetectionConfig(
    # data and training
    train_data=Coco(
        annotations="PersonCarPet/annotations/train_T40RGBIR_pet_Package_voc_coco_11_22131images_121576bbox.json",
        images="PersonCarPet/pcp_train",
        classes=CLASSES,
        keep_empty_images=True,
    ),
    val_data=Coco(
        annotations="PersonCarPet/annotations/val_T40_RGB_PCPaP_1871images_11892bbox.json",
        images="PersonCarPet/pcp_val",
        classes=CLASSES,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=30,
    batch_size=24,
    lr=0.000375,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=40, min_factor=0.0),
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
    evaluation_interval=2,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=PPYOLOE(
        depth=0.33,
        width=0.50,
        use_alpha=True,
        activation="silu",
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_blocks=(3, 6, 6, 3),
        neck_channels=(768, 384, 192),
        neck_blocks=3,
        num_classes=5,
        strides=(32, 16, 8),
        reg_max=16,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=6,
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
    # machinery
    precision="bf16",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
)
