"""ResNet-50 on ImageNet, taught by ResNet-152: 224 x 224 pixels, 100 epochs, 256 images a step.

Paper: Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
Recipe: that of imagenet_experiments/resnet50 (SimpleAICV_pytorch_training_examples, commit d25e887), and a teacher: cross
    entropy and KL at temperature 1, with the same weight.
Data: imagenet/train and imagenet/val under the data root, each with the 1000 class folders n01440764 to n15075141;
    1,281,167 and 50,000 images.
Command: python train.py --data_root <folder that holds imagenet/>
Teacher: pretrained/resnet152_imagenet.pth, torchvision's resnet152-394f9c45.pth, top-1 error 21.69 % (pretrained/README.md
    says how to make the file).
Expected: not trained yet. Published by SimpleAICV for its pair: top-1 accuracy 77.58 % with KD, 78.09 % by mutual learning
    (arXiv 1706.00384), 76.2 % without a teacher. Temperature and weight here are choices of this
    project.
Precision: float32, for both networks.
"""

from public.config import ClassificationConfig
from public.datasets.image_folder import ImageFolder
from public.families.distilled import KD, Distilled
from public.families.image_classifier import ImageClassifier
from public.input import ClassificationInput
from public.training.optimizers import SGD
from public.training.schedules import WarmupMultiStep
from public.transforms.classification import RandomResizedCrop
from public.transforms.flip import RandomFlip

config = ClassificationConfig(
    # data and training
    train_data=ImageFolder(folder="imagenet/train", classes=None, num_classes=1000),
    val_data=ImageFolder(folder="imagenet/val", classes=None, num_classes=1000),
    test_data=None,
    epochs=100,
    batch_size=256,
    lr=0.1,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=1e-4, decay_normalisation=True, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=0, warmup_start=1.0, milestones=(30, 60, 90), gamma=0.1),
    clip_norm=None,
    ema=None,
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=False,
    seed=0,
    # pictures
    input=ClassificationInput(
        size=(224, 224),
        shorter_side=256,
        interpolation="area",
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    train_transforms=(
        RandomResizedCrop(
            size=(224, 224), area=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3), interpolation="area", num_attempts=10
        ),
        RandomFlip(prob=0.5),
    ),
    batch_transforms=(),
    repeats=1,
    on_bad_sample="error",
    # evaluation
    best_metric="top1_accuracy",
    evaluation_interval=1,
    evaluation_batch_size=256,
    early_stop=None,
    # network
    classifier=Distilled(
        student=ImageClassifier(
            network="resnet50",
            num_classes=1000,
            in_chans=3,
            dropout=0.0,
            drop_path=0.0,
            zero_init=False,
            label_smoothing=0.0,
            options=(),
        ),
        teacher=ImageClassifier(
            network="resnet152",
            num_classes=1000,
            in_chans=3,
            dropout=0.0,
            drop_path=0.0,
            zero_init=False,
            label_smoothing=0.0,
            options=(),
        ),
        teacher_weights="pretrained/resnet152_imagenet.pth",
        teacher_precision="float32",
        feature=None,
        logits=KD(weight=1.0, temperature=1.0),
        factor=1.0,
        stop_epoch=None,
    ),
    # machinery
    precision="float32",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
    print_interval=100,
)
