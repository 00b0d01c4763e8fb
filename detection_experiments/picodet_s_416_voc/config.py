"""PicoDet-s on Pascal VOC 2012, from COCO weights: 5,717 training and 5,823 validation images, 16 epochs.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
Recipe: miemiedetection (commit 7193fa8), exps/picodet/picodet_s_416_voc2012.py.
Data: VOCdevkit/VOC2012 under the data root; train is trained on, val evaluated.
Command: python train.py --data_root <folder that holds VOCdevkit/>
Starting weights: pretrained/picodet_s_416_coco.pth, PaddleDetection's picodet_s_416_coco_lcnet (pretrained/README.md says how
    to make the file); its class layers (80 classes) make room for new ones (20). From scratch: --starting_weights none
Expected: AP 0.486, AP50 0.677, published by miemiedetection (commit 7193fa8) for 48 images a step on one GPU. Not trained by
    us. With the task-aligned assigner from the first epoch on it gets AP 0.493: --static_assigner_epochs 0
Weight decay: on the weights of convolutions alone, as in that project, which also takes nesterov's momentum.
"""

from public.config import DetectionConfig
from public.datasets.voc import VOC_CLASSES, Voc
from public.families.picodet import PicoDet
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, ColorDistort, RandomCrop
from public.transforms.flip import RandomFlip

config = DetectionConfig(
    # data and training
    train_data=Voc(
        sources=("VOCdevkit/VOC2012/train",), classes=VOC_CLASSES, use_difficult=True, keep_empty_images=True
    ),
    val_data=Voc(sources=("VOCdevkit/VOC2012/val",), classes=VOC_CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=None,
    epochs=16,
    batch_size=48,
    lr=0.06,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=4e-5, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.1, horizon_epochs=20, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights="pretrained/picodet_s_416_coco.pth",
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
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
    metrics=("coco", "voc"),
    best_metric="AP",
    evaluation_interval=2,
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
        num_classes=20,
        strides=(8, 16, 32, 64),
        reg_max=7,
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
