"""A very small classifier with a network of its own, for tests of the whole path.

Command: python train.py --data_root FOLDER, where public.datasets.drawn_cifar.draw_cifar wrote "tiny-cifar".

Expected: top-1 error 91.67 %, that of guessing one of twelve classes.
"""

from dataclasses import dataclass

from public.config import ClassificationConfig
from public.datasets.cifar import Cifar
from public.families.image_classifier import ImageClassifier
from public.input import ClassificationInput
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.classification import ReflectPadCrop
from public.transforms.flip import RandomFlip
from public.transforms.mixing import CutMix

from .model import tiny_classifier


@dataclass(frozen=True, kw_only=True)
class TinyClassifier(ImageClassifier):
    width: int

    def build_model(self):
        return tiny_classifier(
            num_classes=self.num_classes, in_chans=self.in_chans, width=self.width, dropout=self.dropout
        )


config = ClassificationConfig(
    # data and training
    train_data=Cifar(archive="tiny-cifar", split="train"),
    val_data=Cifar(archive="tiny-cifar", split="test"),
    test_data=None,
    epochs=3,
    batch_size=16,
    lr=0.1,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.1, horizon_epochs=3, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=ClassificationInput(
        size=(32, 32),
        shorter_side=32,
        interpolation="linear",
        color_order="rgb",
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    train_transforms=(ReflectPadCrop(padding=4, size=(32, 32)), RandomFlip(prob=0.5)),
    batch_transforms=(CutMix(alpha=1.0, prob=0.5),),
    repeats=1,
    on_bad_sample="error",
    # evaluation
    best_metric="top1_accuracy",
    evaluation_interval=1,
    evaluation_batch_size=7,
    early_stop=None,
    # network
    classifier=TinyClassifier(
        network="tiny",
        width=8,
        num_classes=12,
        in_chans=3,
        dropout=0.1,
        drop_path=0.0,
        zero_init=False,
        label_smoothing=0.1,
        options=(),
    ),
    # machinery
    precision="float32",
    channels_last=True,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
    num_workers=0,
    print_interval=1,
    num_pictures=1,
)
