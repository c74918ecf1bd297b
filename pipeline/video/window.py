"""Shows frames in a window."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from PIL import Image

from common.errors import UserError
from common.images import Pixels


class Window(AbstractContextManager["Window"]):
    """Shows frames, scaled to fit the screen, in one thread; the close button, Esc or q closes it. A context manager.

    Raises:
        UserError: there is no display or no Tk.
    """

    def __init__(self, title: str) -> None:
        fix = "remove --show, or run the command on a desktop"
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise UserError(f"--show needs Python's Tk, which is not installed (Debian: python3-tk); {fix}") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(f"--show: there is no display ({error}); {fix}") from error
        self._photo_class: Any = ImageTk.PhotoImage
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._photo: Any = None
        self.open = True
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self._close())

    def show(self, pixels: Pixels) -> None:
        """Show uint8 (H, W, 3) RGB; do nothing once the window is closed."""
        if not self.open:
            return
        image = Image.fromarray(pixels)
        max_size = (int(self._root.winfo_screenwidth() * 0.9), int(self._root.winfo_screenheight() * 0.85))
        if image.width > max_size[0] or image.height > max_size[1]:
            image.thumbnail(max_size)
        self._photo = self._photo_class(image)  # Tk itself keeps no reference
        self._label.configure(image=self._photo)
        self._root.update()

    def _close(self) -> None:
        self.open = False

    def __exit__(self, *error: object) -> None:
        self._photo = None
        self._root.destroy()
