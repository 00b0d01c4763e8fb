"""The check of what a detection loss is given."""

import torch


def check_targets(targets: list[dict[str, torch.Tensor]], *, num_images: int, predicted: int, num_classes: int) -> None:
    """Refuses targets that do not belong to the outputs.

    Args:
        targets: for each image `boxes` (G, 4) and `labels` int64 (G,).
        num_images: of the outputs.
        predicted: classes of the outputs; num_classes: those that the loss was built for.

    Raises:
        ValueError: another number of targets than images, another number of classes, or a label outside 0..K-1 (on a GPU,
            which would have to be waited for, labels are not looked at: there, reading the data has checked).
    """
    if len(targets) != num_images:
        raise ValueError(f"outputs of {num_images} images but {len(targets)} targets; give one dict an image")
    if predicted != num_classes:
        raise ValueError(f"the model predicts {predicted} classes, the loss was built for {num_classes}")
    labels = torch.cat([target["labels"] for target in targets])
    if len(labels) == 0 or labels.is_cuda:
        return
    lowest, highest = torch.stack(labels.aminmax()).tolist()
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"labels from {lowest} to {highest}, but the model has {num_classes} classes, 0 to {num_classes - 1}; "
            f"set num_classes to the number of classes of the data"
        )
