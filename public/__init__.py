"""Encore: computer-vision training experiments that repeat, bit for bit."""


def load(path, device: str = "auto"):
    """A detector or a classifier that is ready to use, from a checkpoint: `public.load("runs/.../best.pth")("street.jpg")`.

    Of a run's folder, or an experiment's, the best weights are taken (of the newest run); a name such as "ppyoloe_plus_s"
    means the known weights of that network, which `python -m public.weights.download` fetches.  A file of `python -m
    public.test_scripts.export` is opened by its runtime.  A detector's network is in its fastest form: fused, channels last.
    See `public.inference.detector.load`, `public.inference.classifier.load` and `public.inference.exported.load`.
    """
    from public.checkpoint_files import load_checkpoint
    from public.inference import classifier, detector, exported  # here, so that `import public` stays light
    from public.inference.trained import find_checkpoint

    if exported.is_exported(path):
        return exported.load(path, device)
    path = find_checkpoint(path)
    if classifier.is_classifier(load_checkpoint(path)):
        return classifier.load(path, device)
    return detector.load(path, device).fused()
