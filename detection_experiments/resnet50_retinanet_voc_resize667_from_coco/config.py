"""RetinaNet with ResNet-50 on Pascal VOC 2007 and 2012, pictures of 667 pixels, from COCO: 20 epochs, 24 images a step.

Differs from resnet50_retinanet_voc_resize667: starting_weights, backbone_only.
Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002.
Recipe: zgcr/SimpleAICV_pytorch_training_examples (commit d25e887),
    detection_experiments/resnet50_retinanet_voc_distributed_apex_resize667_usecocopre.
Data: VOCdevkit/ under the data root, with VOC2007 and VOC2012: trainval of both is trained on (16,551 images, without their
    difficult objects), test of 2007 evaluated (4,952 images), where difficult objects count neither way, as in VOC's kit.
Command: torchrun --nproc_per_node=2 train.py --data_root <folder that holds VOCdevkit/>
    on one GPU: python train.py --data_root ... --accumulate 2 (the same 24 images a step; BatchNorm sees 12 at a time)
Starting weights: resnet50_retinanet_coco_resize667, the best of that experiment's newest run, which has to be trained first;
    its class layer (80 classes) makes room for a new one (20). From scratch: --starting_weights none
Expected: AP50 0.789 at 11 points on VOC 2007 test after 5 epochs, then 0.780, 0.776 and 0.770 after 10, 15 and 20, published
    by the source for its own form of the recipe on 2 GPUs: the best weights are early ones. Its later form (commit f521642)
    has 0.797 after 5 and 10. Not trained by us.
Otherwise than the published run: the layer that predicts boxes is kept, which has the same anchors in both (there the last
    layer of both towers begins anew). All else, and the schedule: see resnet50_retinanet_voc_resize667.
"""

from public.config import DetectionConfig
from public.datasets.voc import VOC_CLASSES, Voc
from public.families.retinanet import RetinaNet
from public.input import InputSpec
from public.training.optimizers import AdamW
from public.training.schedules import WarmupMultiStep
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox, RandomCropKeepingObjects, RandomTranslate

config = DetectionConfig(
    # data and training
    train_data=Voc(
        sources=("VOCdevkit/VOC2007/trainval", "VOCdevkit/VOC2012/trainval"),
        classes=VOC_CLASSES,
        use_difficult=False,
        keep_empty_images=True,
    ),
    val_data=Voc(sources=("VOCdevkit/VOC2007/test",), classes=VOC_CLASSES, use_difficult=False, keep_empty_images=True),
    test_data=None,
    epochs=20,
    batch_size=24,
    lr=1e-4,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_normalisation=True, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=0, warmup_start=0.0, milestones=(), gamma=0.1),
    clip_norm=0.1,
    ema=None,
    starting_weights="resnet50_retinanet_coco_resize667",
    backbone_only=False,
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
    metrics=("voc07", "voc", "coco"),
    best_metric="voc07_AP50",
    evaluation_interval=5,
    evaluation_batch_size=8,
    early_stop=None,
    # network
    detector=RetinaNet(
        backbone="resnet50",
        backbone_options=(),
        backbone_batchnorm="trained",
        num_classes=20,
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
        focal_gamma=1.5,
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
    # machinery
    precision="bf16",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
)
