"""VoVNet-39-se on ImageNet: 224 x 224 pixels, 100 epochs, 256 images a step.

Differs from resnet50: network.
Paper: An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection, arXiv 1904.09730;
    CenterMask: Real-Time Anchor-Free Instance Segmentation, arXiv 1911.06667. 24,568,936 parameters.
Data: imagenet/train and imagenet/val under the data root, each with the 1000 class folders n01440764 to n15075141;
    1,281,167 and 50,000 images.
Command: python train.py --data_root <folder that holds imagenet/>
Hardware: the original: 4 GPUs by DataParallel, 64 images each, and BatchNorm over each 64. The same split here:
    torchrun --nproc_per_node 4 train.py, or on one GPU --accumulate 4; without either, one process takes all 256 at
    once.
Expected: top-1 error 22.662 %, published by SimpleAICV_pytorch_training_examples (commit d25e887), of its last epoch,
    in float32, as here. Not trained by us.
The published figure belongs to that project's variant (22,928,744 parameters): it has the attention only in stages of
    a single block; ours, like timm's, has it in the last block of every stage.
Weight decay acts on all parameters, those of BatchNorm and biases too.
Pictures are made smaller by averaging ("area"), where the original had Pillow's bilinear filter, which averages as
    well.
"""

from public.config import ClassificationConfig
from public.datasets.image_folder import ImageFolder
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
    classifier=ImageClassifier(
        network="vovnet39_se",
        num_classes=1000,
        in_chans=3,
        dropout=0.0,
        drop_path=0.0,
        zero_init=False,
        label_smoothing=0.0,
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
    print_interval=100,
)
