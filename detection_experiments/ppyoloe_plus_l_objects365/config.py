"""PPYOLOE+ l on Objects365 v2, from an ImageNet backbone: 60 epochs, 192 images a step, no alpha.

Differs from ppyoloe_plus_s_objects365: starting_weights, depth, width.
Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.
Recipe: PaddleDetection (commit 666f597), configs/ppyoloe/objects365/ppyoloe_plus_crn_l_60e_objects365.yml.
Data: Objects365 v2 (2020) in objects365/ under the data root: annotations/zhiyuan_objv2_train.json and
    zhiyuan_objv2_val.json, train/ and val/ with each picture at its file_name of the json (such as
    train/images/v1/patch0/...jpg). 1,742,292 training images are listed, of which three are in no archive, and 80,000
    validation images. Such holes are skipped, counted and listed (on_bad_sample="skip"); PaddleDetection goes on without
    them too.
Command: on each of 3 machines, torchrun --nnodes=3 --node_rank=<0..2> --nproc_per_node=8 --master_addr=<host>
    --master_port=29500 train.py --data_root <folder that holds objects365/>
    on one machine: torchrun --nproc_per_node=8 train.py --data_root ... --accumulate 3
Starting weights: pretrained/cspresnet_l_imagenet.pth, PaddleDetection's CSPResNetb_l_pretrained, of which the backbone is
    taken (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Expected: AP50 0.308 on val, published by PaddleDetection (configs/ppyoloe/README.md, column "Box AP 0.5"). Not trained by
    us.
Batch: that README says 3 machines with 8 GPUs and 8 images each; the yml says lr 0.001, which PaddleDetection uses as it
    stands, whatever the number of GPUs. So lr 0.001 belongs to 192 images a step (on COCO it belongs to 64).
Precision: PaddleDetection trained with mixed precision (fp16); bf16 here, which needs no loss scaling.
Weight decay: on everything but the scale and shift of BatchNorm, as in PaddleDetection: biases of convolutions are decayed.
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
        annotations="objects365/annotations/zhiyuan_objv2_train.json",
        images="objects365/train",
        classes=None,
        keep_empty_images=False,
    ),
    val_data=Coco(
        annotations="objects365/annotations/zhiyuan_objv2_val.json",
        images="objects365/val",
        classes=None,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=60,
    batch_size=192,
    lr=0.001,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=72, min_factor=0.0),
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
    on_bad_sample="skip",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=5,
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
        num_classes=365,
        strides=(32, 16, 8),
        reg_max=16,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=20,
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
