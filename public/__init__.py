"""Encore: computer-vision training experiments that repeat, bit for bit."""


def load(path, device: str = "auto"):
    """A detector that is ready to use, from a checkpoint: `public.load("runs/.../best.pth")("street.jpg")`.

    See `public.detector.load`.
    """
    from public.detector import load  # here, so that `import public` stays light

    return load(path, device)
