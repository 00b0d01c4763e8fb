"""A very small PPYOLOE with settings and a loss of its own, for tests of the whole path.

Command: python train.py --data_root FOLDER, where tests.helpers.tiny_data.write_voc wrote "tiny/train" and "tiny/val".
"""

from dataclasses import dataclass

from public.config import DetectionConfig
from public.datasets.voc import Voc
from public.families.ppyoloe import PPYOLOE
from public.input import InputSpec
from public.training.ema import EMA
from public.training.optimizers import SGD
from public.training.schedules import WarmupCosine
from public.transforms.detection import BatchRandomResize, Resize
from public.transforms.flip import RandomFlip

from .loss import HalfLoss


@dataclass(frozen=True, kw_only=True)
class HalfPPYOLOE(PPYOLOE):
    loss_factor: float

    def build_loss(self):
        return HalfLoss(loss=super().build_loss(), factor=self.loss_factor)


config = DetectionConfig(
    # data and training
    train_data=Voc(sources=("tiny/train",), classes=None, use_difficult=True, keep_empty_images=True),
    val_data=Voc(sources=("tiny/val",), classes=None, use_difficult=True, keep_empty_images=True),
    test_data=None,
    epochs=3,
    batch_size=4,
    lr=0.01,
    accumulate=1,
    optimizer=SGD(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_normalisation=False, decay_bias=True),
    schedule=WarmupCosine(warmup_epochs=1, warmup_start=0.0, horizon_epochs=4, min_factor=0.0),
    clip_norm=None,
    ema=EMA(decay=0.9998),
    starting_weights=None,
    backbone_only=False,
    freeze=(),
    freeze_batchnorm=(),
    sync_batchnorm=True,
    seed=0,
    # pictures
    input=InputSpec(
        size=(64, 64),
        resize="stretch",
        interpolation="linear",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    train_transforms=(RandomFlip(prob=0.5), Resize(size=(64, 64), interpolation="linear")),
    batch_transforms=(BatchRandomResize(sizes=(64, 96), interpolations=("linear", "nearest")),),
    on_bad_sample="error",
    # evaluation
    metrics=("coco", "voc", "voc07"),
    best_metric="AP",
    evaluation_interval=1,
    evaluation_batch_size=3,
    early_stop=None,
    # network
    detector=HalfPPYOLOE(
        loss_factor=0.5,
        depth=0.16,
        width=0.125,
        use_alpha=False,
        activation="silu",
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_blocks=(3, 6, 6, 3),
        neck_channels=(768, 384, 192),
        neck_blocks=3,
        num_classes=3,
        strides=(32, 16, 8),
        reg_max=16,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=1,
        atss_top_k=9,
        tal_top_k=13,
        tal_alpha=1.0,
        tal_beta=6.0,
        varifocal_alpha=0.75,
        varifocal_gamma=2.0,
        loss_weight_cls=1.0,
        loss_weight_iou=2.5,
        loss_weight_dfl=0.5,
        score_threshold=0.001,
        nms_iou=0.7,
        nms_top_k=1000,
        keep_top_k=100,
    ),
    # machinery
    precision="float32",
    channels_last=False,
    compile=False,
    deterministic=True,
    threads=1,
    tf32=False,
    matmul_precision="highest",
    num_workers=0,
    print_interval=1,
    num_pictures=1,
)
