"""A window that shows what is watched: the newest picture, what goes on in it, how many answers a second, how far
behind. Tk, in the main thread; it draws what is there when it has time, and holds nothing up."""

from __future__ import annotations

import gc
import tkinter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from PIL import Image, ImageTk

from kinema.inference.watch_drawing import Colour, Line, Rgb, confidence_colour, lines_of, state_line
from kinema.inference.watching import Seen, Watcher
from kinema.types import Heads, UserError

KEYS = "space: pause   r: reset   q: quit"

_TICK_MS = 15
_LARGEST_PX = (960, 720)
_SMALLEST_PX = (480, 360)
_BAR_PX = (180, 14)
_BACKGROUND, _PANEL, _TEXT, _FAINT, _ALERT = "#101216", "#1b1e24", "#f2f2f2", "#8d949e", "#ffb347"


def why_no_window() -> str | None:
    """Why no window can be opened here; None where one can."""
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError as error:
        return str(error)
    gc.collect()  # see `WatchWindow.close`
    return None


class WatchWindow:
    """The window.

    Args:
        title: In its frame.
        heads: Task -> class names.

    Raises:
        UserError: There is no display.
    """

    def __init__(self, title: str, heads: Heads) -> None:
        try:
            self.root = tkinter.Tk(className="kinema")
        except tkinter.TclError as error:
            raise UserError(f"--show: no window can be opened ({error}); --headless does without") from None
        self._heads = heads
        self._rgb = Rgb()
        self._drawn: Seen | None = None
        self._size_px: tuple[int, int] | None = None
        self._photo: ImageTk.PhotoImage | None = None
        self._error: BaseException | None = None
        self._watcher: Watcher | None = None
        self._on_tick: Callable[[], None] = _nothing
        root: Any = self.root  # Tk takes more than its annotations say
        root.title(f"kinema watch: {title}")
        root.configure(background=_BACKGROUND)
        root.report_callback_exception = self._failed
        root.protocol("WM_DELETE_WINDOW", self._quit)
        for key, action in (
            ("<space>", self._pause),
            ("<r>", self._reset),
            ("<R>", self._reset),
            ("<q>", self._quit),
            ("<Q>", self._quit),
            ("<Escape>", self._quit),
        ):
            root.bind(key, lambda _event, action=action: action())
        self._panel = tkinter.Frame(self.root, background=_PANEL, padx=14, pady=8)
        self._panel.pack(side="bottom", fill="x")
        self._screen = tkinter.Canvas(
            self.root, width=_SMALLEST_PX[0], height=_SMALLEST_PX[1], background="black", highlightthickness=0
        )
        self._screen.pack(side="top", fill="both", expand=True)
        self._rows = [_Row(self._panel, number) for number in range(max(1, len(heads)))]
        self._state = _label(self._panel, 11, _FAINT)
        self._state.grid(row=len(heads) + 1, column=0, sticky="w", pady=(6, 0))
        self._keys = _label(self._panel, 11, _FAINT)
        self._keys.configure(text=KEYS)
        self._keys.grid(row=len(heads) + 1, column=1, columnspan=2, sticky="e", pady=(6, 0))
        self._notice = _label(self._panel, 11, _ALERT)
        self._panel.columnconfigure(0, weight=1)
        self.root.update()

    def run(self, watcher: Watcher, on_tick: Callable[[], None]) -> None:
        """Show what a watcher sees until it ends, or somebody quits, which stops it.

        Args:
            watcher: That runs.
            on_tick: Called often.
        """
        self._watcher, self._on_tick = watcher, on_tick
        self.root.after(_TICK_MS, self._tick)
        self.root.mainloop()
        watcher.stop()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Take it from the screen; it cannot be used again."""
        self._photo = None
        self.root.destroy()
        # What is left of it in cycles must not be found by the garbage collector in another thread: Tcl would abort.
        self.__dict__.clear()
        gc.collect()

    def _tick(self) -> None:
        assert self._watcher is not None
        self._on_tick()
        if not self._watcher.is_running:
            self.root.quit()
            return
        seen = self._watcher.seen
        if seen is not None and seen is not self._drawn:
            if self._drawn is None:
                self._fit(seen)
            self._drawn = seen
            self._draw_picture(seen)
        self._draw_words(seen)
        self.root.after(_TICK_MS, self._tick)

    def _fit(self, seen: Seen) -> None:
        """Make the window as large as the first picture, within reason."""
        height_px, width_px = self._rgb(seen.picture).shape[:2]
        scale = min(1.0, _LARGEST_PX[0] / width_px, _LARGEST_PX[1] / height_px)
        scale = max(scale, min(_SMALLEST_PX[0] / width_px, _SMALLEST_PX[1] / height_px))
        self._screen.configure(width=round(scale * width_px), height=round(scale * height_px))
        self.root.update_idletasks()

    def _draw_picture(self, seen: Seen) -> None:
        room_px = max(2, self._screen.winfo_width()), max(2, self._screen.winfo_height())
        image = Image.fromarray(self._rgb(seen.picture, within_px=room_px))
        if self._photo is not None and self._size_px == image.size:
            self._photo.paste(image)
        else:
            self._photo, self._size_px = ImageTk.PhotoImage(image, master=self.root), image.size
            self._screen.delete("all")
            self._screen.create_image(0, 0, anchor="nw", image=self._photo, tags="picture")
        place: Any = self._screen.coords
        place("picture", (room_px[0] - image.width) // 2, (room_px[1] - image.height) // 2)

    def _draw_words(self, seen: Seen | None) -> None:
        assert self._watcher is not None
        watcher = self._watcher
        lines = lines_of(None if seen is None else seen.decision, self._heads)
        for number, row in enumerate(self._rows):
            row.show(lines[number] if number < len(lines) else None)
        rate, delay_ms = watcher.figures.now()
        is_file = watcher.source.waits
        state = state_line(rate, None if is_file else delay_ms, watcher.figures.dropped)
        if watcher.is_paused:
            state = "paused"
        _set(self._state, state)
        notice = watcher.notice
        if notice is None:
            self._notice.grid_forget()
        else:
            _set(self._notice, notice)
            self._notice.grid(row=len(self._heads) + 2, column=0, columnspan=3, sticky="w")

    def _pause(self) -> None:
        assert self._watcher is not None
        self._watcher.pause(not self._watcher.is_paused)

    def _reset(self) -> None:
        assert self._watcher is not None
        self._watcher.reset()

    def _quit(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        self.root.quit()

    def _failed(self, _kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
        self._error = error
        self._quit()


class _Row:
    """A class with its confidence, in a row of the panel."""

    def __init__(self, panel: tkinter.Frame, number: int) -> None:
        self._label = _label(panel, 18, _TEXT, bold=True)
        self._label.grid(row=number, column=0, sticky="w")
        width_px, height_px = _BAR_PX
        self._bar = tkinter.Canvas(panel, width=width_px, height=height_px, background="#2b2f37", highlightthickness=0)
        self._bar.grid(row=number, column=1, sticky="e", padx=(12, 8))
        self._part = self._bar.create_rectangle(0, 0, 0, height_px, width=0, fill="")
        self._percent = _label(panel, 14, _TEXT)
        self._percent.configure(width=6, anchor="e")
        self._percent.grid(row=number, column=2, sticky="e")

    def show(self, line: Line | None) -> None:
        words = "" if line is None else f"{line.task}: {line.label}" if line.task else line.label
        confidence = None if line is None else line.confidence
        _set(self._label, words, _TEXT if line is not None and line.is_action else _FAINT)
        _set(self._percent, "" if confidence is None else f"{confidence:.0%}")
        colour = _hex(confidence_colour(confidence)) if confidence is not None else ""
        self._bar.coords(self._part, 0, 0, round(_BAR_PX[0] * (confidence or 0.0)), _BAR_PX[1])
        self._bar.itemconfigure(self._part, fill=colour)


def _label(panel: tkinter.Frame, points: int, colour: str, *, bold: bool = False) -> tkinter.Label:
    font = ("TkDefaultFont", points, "bold" if bold else "normal")
    return tkinter.Label(panel, background=_PANEL, foreground=colour, font=font, anchor="w")


def _set(label: tkinter.Label, text: str, colour: str | None = None) -> None:
    """Tell Tk only what has changed."""
    if label.cget("text") != text:
        label.configure(text=text)
    if colour is not None and label.cget("foreground") != colour:
        label.configure(foreground=colour)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _nothing() -> None:
    pass
