"""PPYOLOE+ s on Pascal VOC 2007 and 2012, taught by PPYOLOE+ l: 30 epochs, 64 images a step.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; FGD, arXiv 2111.11837.
Recipe: that of ppyoloe_plus_s_voc (PaddleDetection, commit 666f597), distilled as in miemiedetection (commit 7193fa8),
    exps/slim/distill/ppyoloe_plus_crn_l_voc2012_l2s.py, whose terms are PaddleDetection's.
Total: 0.125 times the detector's own terms, 4 times those on the outputs (classes 1, boxes 2.5, distributions 0.5, KL of the
    class scores 20,000 at temperature 10) and those of FGD on the three maps of the neck. Once the task-aligned assigner is
    active the teacher's predictions decide which points learn an object. The KL falls with the square of the number of
    classes: the weight of COCO's 80 counts 16 times as much with these 20, where 1,250 would be as there. FGD's adapters are
    trained here; miemiedetection's optimizer does not know its own, so that they keep their initial values.
Data: VOCdevkit/VOC2007 and VOCdevkit/VOC2012 under the data root: both trainval, 5,011 + 11,540 = 16,551 training images;
    VOC2007 test, 4,952 images, which chooses the best weights, as there is no other set in this recipe.
Command: torchrun --nproc_per_node=8 train.py --data_root <folder that holds VOCdevkit/>
    after python detection_experiments/ppyoloe_plus_l_voc/train.py; on one GPU with --accumulate 8. miemiedetection's
    tools/train.py -f <student's exp> -c <student's weights> -sf <the file above> -sc <teacher's weights> is this page:
    student, starting_weights, teacher and teacher_weights, so that the command has nothing left to name.
Starting weights: pretrained/ppyoloe_plus_s_coco.pth, PaddleDetection's ppyoloe_plus_crn_s_80e_coco (pretrained/README.md
    says how to make the file); its class layers (80 classes) make room for new ones (20). From scratch: --starting_weights
    none
Teacher: the best weights of detection_experiments/ppyoloe_plus_l_voc, 0.890 published. miemiedetection's command takes its
    teacher after epoch 1 (after 16 in its later version).
Expected: not trained yet. No result is published: the figures below miemiedetection's distillation command are those of its
    plain run, and its later version leaves them out. Without a teacher voc07_AP50 0.867, published by PaddleDetection.
    On half of BCCD (docs/train.md) neither FGD nor the terms on the outputs gave anything beyond the seeds' spread.
Precision: bf16, for both networks; miemiedetection cannot distil in fp16.
Weight decay: on everything but the scale and shift of BatchNorm, as in PaddleDetection: biases of convolutions and alpha
    are decayed.
Elsewhere: miemiedetection trains on VOC2012 train and evaluates on its val: 16 epochs, horizon 20, warm-up 1, 4 epochs of
    ATSS, float32. A copy of this folder with these numbers is that recipe; its teacher must not have seen VOC2012's val, as
    that of this page has.
"""

from public.config import DetectionConfig
from public.datasets.voc import VOC_CLASSES, Voc
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
    metrics=("coco", "voc", "voc07"),
    best_metric="voc07_AP50",
    evaluation_interval=5,
    evaluation_batch_size=4,
    early_stop=None,
    # network
    detector=Distilled(
        student=PPYOLOE(
            depth=0.33,
            width=0.50,
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
        teacher=PPYOLOE(
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
        teacher_weights="detection_experiments/ppyoloe_plus_l_voc",
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
