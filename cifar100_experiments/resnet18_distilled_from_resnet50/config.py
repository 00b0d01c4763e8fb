"""ResNet-18 on CIFAR-100, taught by ResNet-50: 200 epochs, 128 images a step.

Paper: Decoupled Knowledge Distillation, arXiv 2203.08679.
Recipe: that of cifar100_experiments/resnet18 (SimpleAICV_pytorch_training_examples, commit d25e887), and DKD with the weights
    that its paper has for CIFAR-100: target 1, others 8, temperature 4, rising over 20 epochs.
Data: cifar-100-python under the data root; python -m public.test_scripts.download_cifar --classes 100 makes it.
Command: python train.py --data_root <folder that holds cifar-100-python/>
    after python cifar100_experiments/resnet50/train.py --data_root ...
Teacher: the best weights of cifar100_experiments/resnet50.
Expected: not trained yet, and no figure is published for this pair. Without a teacher top-1 error 21.59 %, and of the teacher
    22.12 %, published by SimpleAICV: the larger network is not the better one there.
    The small network of the drawn pictures gained 1.8 +- 1.3 % by DKD, seed by seed (docs/train.md).
"""

from public.config import ClassificationConfig
from public.datasets.cifar import Cifar
from public.families.distilled import DKD, Distilled
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
    classifier=Distilled(
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
        teacher=ImageClassifier(
            network="resnet50_cifar",
            num_classes=100,
            in_chans=3,
            dropout=0.0,
            drop_path=0.0,
            zero_init=False,
            label_smoothing=0.0,
            options=(),
        ),
        teacher_weights="cifar100_experiments/resnet50",
        teacher_precision="float32",
        feature=None,
        logits=DKD(weight=1.0, target=1.0, others=8.0, temperature=4.0, warmup_epochs=20),
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
    data_on_device=True,
    print_interval=100,
)
