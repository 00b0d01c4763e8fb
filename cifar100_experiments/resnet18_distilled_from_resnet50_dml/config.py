"""ResNet-18 on CIFAR-100 that learns together with ResNet-50: 200 epochs, 128 images a step.

Paper: Deep Mutual Learning, arXiv 1706.00384.
Recipe: that of cifar100_experiments/resnet18 (SimpleAICV_pytorch_training_examples, commit d25e887); both networks have the
    cross entropy, and the KL from the other's classes at temperature 1 with the same weight. ResNet-18 is evaluated and used.
Data: cifar-100-python under the data root; python -m public.test_scripts.download_cifar --classes 100 makes it.
Command: python train.py --data_root <folder that holds cifar-100-python/>
Expected: not trained yet, and no figure is published for this pair. Alone, top-1 error 21.59 %, published by SimpleAICV.
    Two small networks of the drawn pictures gained 2.9 +- 1.3 % by it, seed by seed (docs/train.md).
"""

from public.config import ClassificationConfig
from public.datasets.cifar import Cifar
from public.families.distilled import Mutual
from public.families.image_classifier import ImageClassifier
from public.input import ClassificationInput
from public.training.optimizers import SGD
from public.training.schedules import WarmupMultiStep
from public.transforms.classification import ReflectPadCrop
from public.transforms.flip import RandomFlip

config = ClassificationConfig(
    # data and training
    train_data=Cifar(archive="cifar-100-python", split="train"),
    val_data=Cifar(archive="cifar-100-python", split="test"),
    test_data=None,
    epochs=200,
    batch_size=128,
    lr=0.1,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=True, decay_bias=True),
    schedule=WarmupMultiStep(warmup_epochs=0, warmup_start=1.0, milestones=(60, 120, 160), gamma=0.2),
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
        size=(32, 32),
        shorter_side=32,
        interpolation="linear",
        color_order="rgb",
        scale=1 / 255,
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    train_transforms=(RandomFlip(prob=0.5), ReflectPadCrop(padding=4, size=(32, 32))),
    batch_transforms=(),
    repeats=1,
    on_bad_sample="error",
    # evaluation
    best_metric="top1_accuracy",
    evaluation_interval=1,
    evaluation_batch_size=128,
    early_stop=None,
    # network
    classifier=Mutual(
        student=ImageClassifier(
            network="resnet18_cifar",
            num_classes=100,
            in_chans=3,
            dropout=0.0,
            drop_path=0.0,
            zero_init=False,
            label_smoothing=0.0,
            options=(),
        ),
        peer=ImageClassifier(
            network="resnet50_cifar",
            num_classes=100,
            in_chans=3,
            dropout=0.0,
            drop_path=0.0,
            zero_init=False,
            label_smoothing=0.0,
            options=(),
        ),
        weight=1.0,
        temperature=1.0,
    ),
    # machinery
    precision="float32",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
    data_on_device=True,
    print_interval=100,
)
