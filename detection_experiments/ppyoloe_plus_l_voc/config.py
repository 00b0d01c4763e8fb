"""PPYOLOE+ l on Pascal VOC 2007 and 2012, from COCO weights: 30 epochs, 64 images a step.

Differs from ppyoloe_plus_s_voc: starting_weights, depth, width.
Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250. PPYOLOE+: a learnt factor alpha on the 1x1 branches of the
    backbone, images in [0, 1] without mean and std, weights from Objects365 and COCO.
Recipe: PaddleDetection (commit 666f597), configs/ppyoloe/voc/ppyoloe_plus_crn_l_30e_voc.yml; no epoch of ATSS (its -1).
Data: VOCdevkit/VOC2007 and VOCdevkit/VOC2012 under the data root: both trainval, 5,011 + 11,540 = 16,551 training images;
    VOC2007 test, 4,952 images, which chooses the best weights, as there is no other set in this recipe.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds VOCdevkit/>
    on one GPU: python train.py --data_root ... --accumulate 8 (the same 64 images a step and lr, but BatchNorm then sees 8
    at a time)
Starting weights: pretrained/ppyoloe_plus_l_coco.pth, PaddleDetection's ppyoloe_plus_crn_l_80e_coco (pretrained/README.md
    says how to make the file); its class layers (80 classes) make room for new ones (20). From scratch: --starting_weights
    none
Expected: voc07_AP50 0.890 (11 points, difficult objects left out: PaddleDetection's configs/datasets/voc.yml), published by
    PaddleDetection (configs/ppyoloe/README.md). Not trained by us.
Precision: PaddleDetection trained with mixed precision (fp16); bf16 here, which needs no loss scaling.
Weight decay: on everything but the scale and shift of BatchNorm, as in PaddleDetection: biases of convolutions and alpha
    are decayed.
Elsewhere: miemiedetection (commit 7193fa8) trains on VOC2012 train (5,717 images) and evaluates on its val (5,823): 16
    epochs, horizon 20, warm-up 1, 4 epochs of ATSS, 16 images a step, lr 0.00025, float32, one class for each box: AP
    0.715, AP50 0.881 (COCO's metric) from the same weights. A copy of this folder with these numbers is that recipe.
"""

from public.config import DetectionConfig
from public.datasets.voc import VOC_CLASSES, Voc
from public.families.ppyoloe import PPYOLOE
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop, RandomExpand
from public.transforms.flip import RandomFlip

config = DetectionConfig(
    # data and training
    train_data=Voc(
        sources=("VOCdevkit/VOC2007/trainval", "VOCdevkit/VOC2012/trainval"),
        classes=VOC_CLASSES,
        use_difficult=True,
        keep_empty_images=False,
    ),
    val_data=Voc(
        sources=("VOCdevkit/VOC2007/test",),
        classes=VOC_CLASSES,
        use_difficult=True,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=30,
    batch_size=64,
    lr=0.001,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=36, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/ppyoloe_plus_l_coco.pth",
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
    metrics=("coco", "voc", "voc07"),
    best_metric="voc07_AP50",
    evaluation_interval=5,
    evaluation_batch_size=4,
    early_stop=None,
    # network
    detector=PPYOLOE(
        depth=1.00,
        width=1.00,
        use_alpha=True,
        activation="silu",
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_blocks=(3, 6, 6, 3),
        neck_channels=(768, 384, 192),
        neck_blocks=3,
        num_classes=20,
        strides=(32, 16, 8),
        reg_max=16,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=0,
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
