"""Changes of colour that detection and classification share: uint8 RGB (H, W, 3) in and out, rounded and clipped."""

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # the grey of an RGB colour, ITU-R BT.601


def change_brightness(image, factor):
    """`image` times `factor`, rounded and clipped."""
    return cv2.transform(image, np.eye(3) * factor)


def change_contrast(image, factor):
    """How far `image` is from its own mean grey, times `factor`."""
    grey = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    offset = np.full((3, 1), grey * (1 - factor))
    return cv2.transform(image, np.hstack([np.eye(3) * factor, offset]))


def change_saturation(image, factor):
    """How far each pixel is from its own grey, times `factor`."""
    return cv2.transform(image, np.eye(3) * factor + (1 - factor) * np.tile(_LUMA, (3, 1)))


def change_hue(image, shift):
    """The hues moved by `shift` of 256, rounded to a whole number."""
    shift = round(shift)
    if shift == 0:  # the way to hue and back would cost some levels
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(shift % 256)  # around the circle: uint8 wraps
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def shift_hsv(image, hue: int, saturation: int, value: int):
    """OpenCV's hue moved on its circle of 180, saturation and value moved and cut at 0 and 255, by whole numbers.

    The way there and back is taken without a shift, too, as YOLOX does; it changes some pixels by itself.
    """
    hsv = cv2.add(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.array([0.0, saturation, value, 0.0]))
    if hue % 180:
        table = ((np.arange(256) + hue) % 180).astype(np.uint8)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
