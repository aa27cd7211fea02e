"""Mouse, keys, buttons and the slider of a :class:`~otreg.visualize.window.Window`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otreg.visualize.screen import quiet
from otreg.visualize.sheet import ink_on

if TYPE_CHECKING:
    from otreg.visualize.window import Window

HELP = """drag               turn; shift: move, wheel: zoom
click              values of a point
1 to 9, or names   layers on and off
slider, arrows     time from 0 to 1
l r f k t b i      left right front back top bottom iso
0                  as at first
s                  save a picture
h                  this help on and off
q                  quit"""
SIDES = {"l": "left", "r": "right", "f": "front", "k": "back", "t": "top", "b": "bottom", "i": "iso"}
_STEP = 0.05
"""Time that an arrow key goes."""
_STILL = 3
"""Pixels that the mouse may move between press and release of a click."""
_FONT = 15
_LINE = 24
_TICK = 200
"""Milliseconds between looks for Ctrl-C."""


class Controls:
    """What a user touches; every touch calls one method of the window.

    Parameters
    ----------
    window : Window
        On or off screen.
    """

    def __init__(self, window: Window) -> None:
        import vtkmodules.vtkInteractionStyle
        import vtkmodules.vtkRenderingFreeType
        import vtkmodules.vtkRenderingUI  # noqa: F401  (the interactor of the platform)
        from vtkmodules.vtkInteractionStyle import vtkInteractorStyleTrackballCamera
        from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindowInteractor

        self.window = window
        self._ink = ink_on(window.scene.background)
        self._pressed: tuple[int, int] | None = None
        self._stopped = False
        with quiet():
            # Over everything, deaf to the mouse: turning goes to the panels beneath.
            self._over = vtkRenderer()
            self._over.SetLayer(1)
            self._over.InteractiveOff()
            window.window.SetNumberOfLayers(2)
            window.window.AddRenderer(self._over)
            self.interactor: Any = (
                self._off_screen_interactor()
                if window.window.GetOffScreenRendering()
                else vtkRenderWindowInteractor()
            )
            self.interactor.SetRenderWindow(window.window)
            self._style: Any = vtkInteractorStyleTrackballCamera()
            self.interactor.SetInteractorStyle(self._style)
            self.buttons = {name: self._text() for name in window.names}
            self.values = self._text("right")
            self.help = self._text(background=True)
            self.help.VisibilityOff()
            self.hint = self._text("right")
            self._set(self.help, HELP)
            self._set(self.hint, "h: help")
            self._legend = self._add_legend()
            self.slider: Any = self._add_slider() if window.moves else None
        self._listen()
        self.refresh()

    # What happens -------------------------------------------------------------------------------------------

    def key(self, name: str) -> None:
        """A key was pressed, by its X11 name: ``a``, ``1``, ``Left``, …"""
        window = self.window
        if len(name) == 1 and name in "123456789":
            if int(name) <= len(window.names):
                window.toggle(window.names[int(name) - 1])
        elif name in SIDES or name == "0":
            window.look(SIDES.get(name))
        elif name in ("Left", "Right") and window.moves:
            window.set_time(window.time + (_STEP if name == "Right" else -_STEP))
        elif name == "h":
            self.help.SetVisibility(not self.help.GetVisibility())
        elif name == "s":
            self.save()
            return
        elif name == "q":
            self.interactor.TerminateApp()
            return
        else:
            return
        self.refresh()

    def press(self, x: int, y: int) -> bool:
        """The left button went down at a pixel from the lower left; returns whether a button of ours was hit."""
        name = self.button_at(x, y)
        if name is None:
            self._pressed = (x, y)
            return False
        self._pressed = None
        self.window.toggle(name)
        self.refresh()
        return True

    def release(self, x: int, y: int) -> None:
        """The left button came up: where the mouse has not moved, the point there is asked for."""
        pressed, self._pressed = self._pressed, None
        if pressed is None or abs(x - pressed[0]) > _STILL or abs(y - pressed[1]) > _STILL:
            return
        with quiet():
            self.window.pick(x, y)
        self.refresh()

    def button_at(self, x: int, y: int) -> str | None:
        """Name of the layer whose button is at a pixel."""
        for name, text in self.buttons.items():
            left, bottom = text.GetPosition()
            box = [0.0, 0.0]
            text.GetSize(self._over, box)
            if left - 4 <= x <= left + box[0] + 4 and bottom - 4 <= y <= bottom + _LINE - 4:
                return name
        return None

    def save(self, folder: Path | None = None) -> None:
        """Save a picture without buttons, and say where."""
        aside = [*self.buttons.values(), self.help, self.hint]
        shown = [(item, item.GetVisibility()) for item in aside]
        for item in aside:
            item.VisibilityOff()
        if self.slider is not None:
            self.slider.GetRepresentation().VisibilityOff()
        try:
            words = f"saved {self.window.save(folder or Path.cwd())}"
        except OSError as error:
            words = f"could not be saved: {error.strerror or error}"
        for item, visible in shown:
            item.SetVisibility(visible)
        if self.slider is not None:
            self.slider.GetRepresentation().VisibilityOn()
        self._set(self.hint, words)
        self.refresh()

    def refresh(self) -> None:
        """Bring texts and slider up to date, and draw."""
        width, height = self.window.window.GetSize()
        for number, (name, text) in enumerate(self.buttons.items()):
            key = f"{number + 1}  " if number < 9 else "    "
            self._set(text, f"{key}{name}")
            text.SetPosition(14, height - (number + 1) * _LINE - 6)
            text.GetTextProperty().SetOpacity(1.0 if self.window.is_visible(name) else 0.4)
        picked = self.window.picked
        self._set(self.values, picked.text if picked else " ")
        self.values.SetPosition(width - 14, height - 14)
        box = [0.0, 0.0]
        self.help.GetSize(self._over, box)
        self.help.SetPosition(0.5 * (width - box[0]), 0.5 * (height - box[1]))
        self.hint.SetPosition(width - 14, 30)
        if self.slider is not None:
            self.slider.GetRepresentation().SetValue(self.window.time)
        with quiet():
            self.window.window.Render()

    def run(self) -> None:
        """Serve the user until the window is closed.

        Raises
        ------
        KeyboardInterrupt
            On Ctrl-C in the terminal.
        """
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._stop) if main else None
        self.interactor.Initialize()
        # VTK waits for events where Python cannot hear a signal; the timer lets it.
        self.interactor.AddObserver("TimerEvent", lambda *_: self._stopped and self.interactor.TerminateApp())
        self.interactor.CreateRepeatingTimer(_TICK)
        try:
            self.interactor.Start()
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
        if self._stopped:
            raise KeyboardInterrupt

    # How ----------------------------------------------------------------------------------------------------

    def _stop(self, *_: Any) -> None:
        self._stopped = True

    @staticmethod
    def _off_screen_interactor() -> Any:
        from vtkmodules.vtkRenderingUI import vtkGenericRenderWindowInteractor

        return vtkGenericRenderWindowInteractor()

    def _listen(self) -> None:
        def pressed(*_: Any) -> None:
            if self.press(*self.interactor.GetEventPosition()):
                self.interactor.GetCommand(tag).SetAbortFlag(1)  # the button's, not the style's

        def released(*_: Any) -> None:
            self._style.OnLeftButtonUp()
            self.release(*self.interactor.GetEventPosition())

        def typed(*_: Any) -> None:
            self.key(self.interactor.GetKeySym() or "")

        # Before the widgets (0.5) and the style (0).
        tag = self.interactor.AddObserver("LeftButtonPressEvent", pressed, 1.0)
        # While a button is down all events are the style's, which hands this one on to whoever asks it.
        self._style.AddObserver("LeftButtonReleaseEvent", released)
        self.interactor.AddObserver("KeyPressEvent", typed, 1.0)
        # The style's own keys (wireframe, stereo, fly-to, …) would be heard too.
        self._style.AddObserver("CharEvent", lambda *_: None)
        self.interactor.AddObserver("ConfigureEvent", lambda *_: self.refresh())

    def _text(self, anchor: str = "left", *, background: bool = False) -> Any:
        from vtkmodules.vtkRenderingCore import vtkTextActor

        text = vtkTextActor()
        look = text.GetTextProperty()
        look.SetFontFamilyToArial()
        look.SetFontSize(_FONT)
        look.SetColor(*self._ink)
        if anchor == "right":
            look.SetJustificationToRight()
            look.SetVerticalJustificationToTop()
        if background:
            look.SetFontFamilyToCourier()
            look.SetBackgroundColor(*self.window.scene.background)
            look.SetBackgroundOpacity(0.92)
        self._over.AddViewProp(text)
        return text

    @staticmethod
    def _set(text: Any, words: str) -> None:
        # "$" and "|" would start matplotlib's mathematics where that is installed.
        text.SetInput(words.replace("$", "＄").replace("|", "¦"))

    def _add_slider(self) -> Any:
        from vtkmodules.vtkInteractionWidgets import vtkSliderRepresentation2D, vtkSliderWidget

        look = vtkSliderRepresentation2D()
        look.SetMinimumValue(0.0)
        look.SetMaximumValue(1.0)
        look.SetValue(self.window.time)
        look.SetTitleText("time")
        look.SetLabelFormat("{:0.2f}")
        for point, place in ((look.GetPoint1Coordinate(), 0.3), (look.GetPoint2Coordinate(), 0.7)):
            point.SetCoordinateSystemToNormalizedDisplay()
            point.SetValue(place, 0.05)
        look.SetSliderLength(0.02)
        look.SetSliderWidth(0.02)
        look.SetTubeWidth(0.005)
        look.SetEndCapLength(0.003)
        look.SetEndCapWidth(0.02)
        look.SetTitleHeight(0.018)
        look.SetLabelHeight(0.018)
        for part in (look.GetTitleProperty(), look.GetLabelProperty()):
            part.SetColor(*self._ink)
            part.ShadowOff()
            part.ItalicOff()
            part.BoldOff()
        look.GetTubeProperty().SetColor(0.6, 0.6, 0.6)
        look.GetCapProperty().SetColor(0.6, 0.6, 0.6)
        look.GetSliderProperty().SetColor(0.2, 0.45, 0.7)
        slider: Any = vtkSliderWidget()
        slider.SetInteractor(self.interactor)
        slider.SetDefaultRenderer(self._over)
        slider.SetCurrentRenderer(self._over)
        slider.SetRepresentation(look)
        slider.SetAnimationModeToJump()
        slider.EnabledOn()

        def moved(*_: Any) -> None:
            self._pressed = None
            self.window.set_time(look.GetValue())
            self.refresh()

        slider.AddObserver("InteractionEvent", moved)
        slider.AddObserver("EndInteractionEvent", moved)
        return slider

    def _add_legend(self) -> list[Any]:
        """A colour bar, or the names of labels in their colours."""
        colouring = self.window.scene.colouring
        if colouring is None:
            return []
        if colouring.kind == "categorical":
            texts = []
            for number, (name, colour) in enumerate(
                zip(colouring.names[:20], colouring.label_colours, strict=False)
            ):
                text = self._text()
                text.GetTextProperty().SetColor(*colour)
                text.GetTextProperty().BoldOn()
                self._set(text, name)
                text.SetPosition(14, 14 + number * _LINE)
                texts.append(text)
            return texts
        from vtkmodules.vtkCommonCore import vtkLookupTable
        from vtkmodules.vtkRenderingAnnotation import vtkScalarBarActor

        table = vtkLookupTable()
        rows = colouring.table()
        table.SetNumberOfTableValues(len(rows))
        table.SetRange(*colouring.limits)
        for number, (red, green, blue) in enumerate(rows):
            table.SetTableValue(number, red, green, blue, 1.0)
        bar = vtkScalarBarActor()
        bar.SetLookupTable(table)
        bar.SetTitle(f"{colouring.title} ({colouring.unit})" if colouring.unit else colouring.title)
        bar.SetNumberOfLabels(5)
        bar.SetLabelFormat("{:.3g}")
        bar.UnconstrainedFontSizeOn()
        bar.SetVerticalTitleSeparation(10)
        bar.SetPosition(0.90, 0.2)
        bar.SetWidth(0.08)
        bar.SetHeight(0.5)
        for part in (bar.GetTitleTextProperty(), bar.GetLabelTextProperty()):
            part.SetFontSize(_FONT)
            part.SetFontFamilyToArial()
            part.SetColor(*self._ink)
            part.ShadowOff()
            part.ItalicOff()
            part.BoldOff()
        self._over.AddViewProp(bar)
        return [bar]
