"""Encore: computer-vision training experiments that repeat, bit for bit."""


def load(path, device: str = "auto"):
    """A detector or a classifier that is ready to use, from a checkpoint: `public.load("runs/.../best.pth")("street.jpg")`.

    See `public.detector.load` and `public.classifier.load`.
    """
    from public import classifier, detector  # here, so that `import public` stays light
    from public.training.checkpoint import load_checkpoint

    return (classifier if classifier.is_classifier(load_checkpoint(path)) else detector).load(path, device)
