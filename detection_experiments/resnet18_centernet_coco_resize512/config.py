"""CenterNet with ResNet-18 on COCO 2017, pictures of 512 pixels, from an ImageNet backbone: 150 epochs, 128 images a step.

Paper: Objects as Points, arXiv 1904.07850.
Recipe: zgcr/SimpleAICV_pytorch_training_examples (commit d25e887),
    detection_experiments/resnet18_centernet_coco_distributed_apex_resize512.
Data: COCO 2017 in coco/ under the data root: annotations/instances_train2017.json and instances_val2017.json, train2017/,
    val2017/. Training images without an object stay in, as in the source.
Command: torchrun --nproc_per_node=4 train.py --data_root <folder that holds coco/>
    on one GPU: python train.py --data_root ... --accumulate 4 (the same 128 images a step; BatchNorm sees 32 at a time)
Starting weights: pretrained/resnet18_imagenet.pth, torchvision's resnet18-f37072fd.pth, of which the backbone is taken
    (pretrained/README.md says how to make the file); from scratch: --starting_weights none
Expected: not trained yet. The source states no result of this recipe; AP 0.248, AR 0.366 is published by its later form
    (commit f521642: with mean and standard deviation, 140 epochs, 128 images a step), 56 hours on 4 GPUs.
Otherwise than the source: pictures are normalised by ImageNet's mean and standard deviation (there RGB / 255); crops cut on
    all four sides (there left and top only); the losses are averaged over the batch, background images included (there
    image by image, those without an object left out); sizes and offsets have the paper's L1 loss (there smooth L1); any
    number of objects of an image teaches (there 100); boxes keep their fractions. Mixed precision is bf16 (there apex O1,
    fp16). Its README speaks of 96 images a step, its program takes 32 on each of 4 GPUs, as here.
Deformable convolutions: in the form whose gradients have one order of summing, so that the run repeats on a GPU as well.
    deformable="torchvision" on the page takes torchvision's own, which need --deterministic false on a GPU.
"""

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families.centernet import CenterNet
from public.input import InputSpec
from public.training.optimizers import AdamW
from public.training.schedules import WarmupMultiStep
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox, RandomCropKeepingObjects, RandomTranslate

config = DetectionConfig(
    # data and training
    train_data=Coco(
        annotations="coco/annotations/instances_train2017.json",
        images="coco/train2017",
        classes=None,
        keep_empty_images=True,
    ),
    val_data=Coco(
        annotations="coco/annotations/instances_val2017.json",
        images="coco/val2017",
        classes=None,
        keep_empty_images=True,
    ),
    test_data=None,
    epochs=150,
    batch_size=128,
    lr=5e-4,
    accumulate=1,
    optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_normalisation=True, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=0, warmup_start=0.0, milestones=(90, 120), gamma=0.1),
    clip_norm=0.1,
    ema=None,
    starting_weights="pretrained/resnet18_imagenet.pth",
    backbone_only=True,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=InputSpec(
        size=(512, 512),
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
        Letterbox(size=(512, 512), interpolation="linear", padding=0),
    ),
    batch_transforms=(),
    on_bad_sample="error",
    # evaluation
    metrics=("coco",),
    best_metric="AP",
    evaluation_interval=10,
    evaluation_batch_size=16,
    early_stop=None,
    # network
    detector=CenterNet(
        backbone="resnet18",
        backbone_options=(),
        backbone_batchnorm="trained",
        backbone_stride=32,
        neck_channels=(256, 128, 64),
        deformable="gather",
        head_channels=64,
        num_classes=80,
        radius_overlap=0.7,
        radius_rule="original",
        focal_alpha=2.0,
        focal_beta=4.0,
        shared_cell="each",
        box_normaliser="objects",
        loss_weight_heatmap=1.0,
        loss_weight_size=0.1,
        loss_weight_offset=1.0,
        score_threshold=0.0,
        nms_iou=None,
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
