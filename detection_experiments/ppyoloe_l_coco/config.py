"""PPYOLOE-l on COCO 2017, from an ImageNet backbone: 300 epochs, 64 images a step.

Differs from ppyoloe_s_coco: starting_weights, depth, width.
Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.
Recipe: PaddleDetection (commit 666f597), configs/ppyoloe/ppyoloe_crn_l_300e_coco.yml.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Of the 118,287 training images the 1,021 without an object to train on are left out, as in PaddleDetection;
    all 5,000 validation images are evaluated.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step and lr, but BatchNorm then sees 8
    at a time)
Starting weights: pretrained/cspresnet_l_imagenet.pth, PaddleDetection's CSPResNetb_l_pretrained, of which the backbone is
    taken (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Expected: AP 0.514, AP50 0.686 on val2017, AP 0.516 on test-dev, published by PaddleDetection
    (configs/ppyoloe/README_legacy.md). Not trained by us.
Batch: that README says 20 images on each of 8 GPUs; the yml of the commit says 8, with lr 0.01, and governs here. The rate
    for one image is the same: 0.01 / 64 = 0.025 / 160.
Precision: bf16. PaddleDetection's README at the release of these models says mixed precision (fp16), README_legacy says
    nothing; bf16 needs no loss scaling.
Weight decay: on everything but the scale and shift of BatchNorm, as in PaddleDetection: biases of convolutions are decayed.
Elsewhere: miemiedetection (commit 7193fa8) gets AP 0.505 from the published weights: it keeps one class for each box, NMS
    at 0.6 and 100 detections; here a box may have several, 0.7 and 300. It trains on images without objects as well.
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
    batch_size=64,
    lr=0.01,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=5, warmup_start=0.0, horizon_epochs=360, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/cspresnet_l_imagenet.pth",
    backbone_only=True,
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
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
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
    evaluation_interval=10,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=PPYOLOE(
        depth=1.00,
        width=1.00,
        use_alpha=False,
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
