"""PicoDet-s on real blood cells, from COCO weights: fine-tuned in less than 45 minutes on two CPU cores.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
Data: Shenggan/BCCD_Dataset (MIT) in VOC layout: 205 training, 87 validation, 72 test images.
Command: python train.py --data_root <folder that holds BCCD/>; the test split, once: ./test.sh --split test
Starting weights: pretrained/picodet_s_416_coco.pth, PaddleDetection's picodet_s_416_coco_lcnet (pretrained/README.md says how
    to make the file); its class layers (80 classes) make room for new ones (3). From scratch: --starting_weights none
Expected: AP50 0.919 on val, which chose the checkpoint (epoch 15), and AP50 0.930, AP 0.649 on test, scored once.
    From scratch AP50 0.407 on val after the same 15 epochs; docs/bccd_curves.png shows both.
Hardware: two cores of a CPU (Intel Xeon), 11.4 minutes of CPU time, 21 minutes beside other programs.
Measured here: torch 2.15.0, digest of the averaged weights 2b338bb6289904be on an Intel Xeon with AVX512.  Other CPUs
    round sums in another way: their digest is another one, and AP50 may differ by 0.01.
"""

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.picodet import PicoDet
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import AdamW
from public.training.schedules import WarmupCosine
from public.transforms.detection import ColorDistort, RandomCrop, Resize
from public.transforms.flip import RandomFlip

CLASSES = ("Platelets", "RBC", "WBC")

config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("BCCD/train",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("BCCD/val",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    test_data=Voc(sources=("BCCD/test",), classes=CLASSES, use_difficult=True, keep_empty_images=True),
    epochs=15,
    batch_size=8,
    lr=1e-3,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02, decay_normalisation=False, decay_bias=False),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.1, horizon_epochs=15, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.998),
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
        ColorDistort(
            brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-10.0, 10.0), apply_prob=0.5
        ),
        RandomCrop(
            aspect_ratio=(0.5, 2.0),
            scale=(0.5, 1.0),
            thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
            num_attempts=50,
            allow_no_crop=True,
        ),
        RandomFlip(prob=0.5),
        Resize(size=(416, 416), interpolation="linear"),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco", "voc", "voc07"),
    best_metric="AP50",
    evaluation_interval=3,
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
        num_classes=3,
        strides=(8, 16, 32, 64),
        reg_max=7,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=2,
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
