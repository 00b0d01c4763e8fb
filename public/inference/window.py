"""A window for live pictures, where this machine has a display."""

import os
import sys

import cv2
import numpy as np

ESCAPE = 27


def has_display() -> bool:
    """Whether OpenCV can show a window here.  Without a display its Qt would end the whole process."""
    has_screen = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_screen and bool(cv2.currentUIFramework())


class Window:
    """Shows pictures under `title`; does nothing where there is no display."""

    def __init__(self, title: str):
        self.title, self.is_possible = title, has_display()

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_) -> None:
        if self.is_possible:
            cv2.destroyAllWindows()

    def show(self, image: np.ndarray) -> bool:
        """Shows `image`, uint8 RGB (H, W, 3); True where the user wants to end: q, Esc, or the window closed."""
        if not self.is_possible:
            return False
        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        return key in (ord("q"), ESCAPE) or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1
