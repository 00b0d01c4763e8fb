"""PPYOLOE-xs on Pascal VOC 2012, from scratch: 5,717 training and 5,823 validation images, 16 epochs.

Differs from ppyoloe_s_voc: starting_weights, depth, width.
Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250. The size xs (depth 0.16, width 0.25) is miemiedetection's.
Recipe: miemiedetection (commit 7193fa8), exps/ppyoloe/ppyoloe_crn_xs_voc2012.py.
Data: VOCdevkit/VOC2012 under the data root; train is trained on, val evaluated.
Command: python train.py --data_root <folder that holds VOCdevkit/>
Starting weights: none; nobody published any for this size. The original's command names the COCO weights of size s, whose
    layers are twice as wide and are skipped there, so its run begins from scratch too.
Expected: not trained yet; the original leaves its result blank.
Precision: bf16, where the other VOC runs of that project used fp16. NMS here is PaddleDetection's (0.7, 300 detections, a
    box may have several classes), there 0.6, 100 and one class for each box.
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
        sources=("VOCdevkit/VOC2012/train",),
        classes=VOC_CLASSES,
        use_difficult=True,
        keep_empty_images=True,
    ),
    val_data=Voc(
        sources=("VOCdevkit/VOC2012/val",),
        classes=VOC_CLASSES,
        use_difficult=True,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=16,
    batch_size=4,
    lr=0.000625,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=20, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights=None,
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
    metrics=("coco", "voc"),
    best_metric="AP",
    evaluation_interval=2,
    evaluation_batch_size=4,
    early_stop=None,
    # network
    detector=PPYOLOE(
        depth=0.16,
        width=0.25,
        use_alpha=False,
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
        static_assigner_epochs=4,
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
