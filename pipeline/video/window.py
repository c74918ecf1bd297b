"""A window that shows frames as they come, where there is a display."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from PIL import Image

from common.errors import UserError
from common.images import Pixels


class Window:
    """Shows frames, scaled to fit the screen; closed by its button, Esc or q. A context manager, used from one thread.

    Raises UserError where there is no display or no Tk.
    """

    def __init__(self, title: str) -> None:
        mend = "leave out --show, or run it where a desktop is"
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise UserError(f"--show needs Python's Tk, which is not here (Debian: python3-tk); {mend}") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(f"--show: no display here ({error}); {mend}") from error
        self._photo_of: Any = ImageTk.PhotoImage
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._photo: Any = None
        self.open = True
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self._close())

    def show(self, pixels: Pixels) -> None:
        """Shows uint8 (H, W, 3) RGB; nothing after the window was closed."""
        if not self.open:
            return
        image = Image.fromarray(pixels)
        most = (int(self._root.winfo_screenwidth() * 0.9), int(self._root.winfo_screenheight() * 0.85))
        if image.width > most[0] or image.height > most[1]:
            image.thumbnail(most)
        self._photo = self._photo_of(image)  # Tk keeps no reference of its own
        self._label.configure(image=self._photo)
        self._root.update()

    def _close(self) -> None:
        self.open = False

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._photo = None
        self._root.destroy()
