"""Every case of a batch small on one sheet, the worst first: as a picture, and as a page."""

from __future__ import annotations

import base64
import html
import math
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError, OtregError
from otreg.io import atomic_path
from otreg.surface import Surface

if TYPE_CHECKING:
    from otreg.cohort.results import CaseResult
    from otreg.registration import Registration
    from otreg.visualize.run import Run

SIZE = (220, 165)
"""Width and height of a small picture, in pixels."""

FULL = 0.02
"""Distance that has the last colour, as a share of the fixed shape's diameter: the same for all cases."""

MOST_ON_SHEET = 200
"""Cases on the picture; the page has all of them."""

_WORDS = 46
_FONT = 12
_GAP = 12
_BAD = (0.80, 0.16, 0.12)
_PALE = (0.93, 0.93, 0.94)

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({width}px, 1fr)); gap: 14px; }}
figure {{ margin: 0; padding: 8px; border: 1px solid #ddd; border-radius: 6px; overflow-wrap: anywhere; }}
figure.bad {{ border: 2px solid #cc2a1f; }}
figure img, figure .none {{ width: 100%; aspect-ratio: {width} / {height}; background: #f2f2f3; display: block; }}
figcaption a {{ font-weight: 600; color: inherit; }}
.reason {{ color: #cc2a1f; }}
</style></head><body><h1>{title}</h1><p>{words}</p><main>
{cards}
</main></body></html>
"""


class Overview:
    """All cases of a batch, small, the worst first; notebooks show it inline.

    Parameters
    ----------
    title : str
    results : sequence of CaseResult
        In any order: those that failed come first, then those that did not pass, then by the distance that is left
        between the surfaces, as a share of the fixed one's diameter, the largest first.
    picture : callable
        Of a result: its small picture as PNG, or None.
    """

    def __init__(
        self, title: str, results: Sequence[CaseResult], picture: Callable[[CaseResult], bytes | None]
    ) -> None:
        self.title = title
        self.results = sorted(results, key=_badness, reverse=True)
        self._picture = picture

    @property
    def words(self) -> str:
        """What the sheet shows, in a sentence or two."""
        counts = [
            f"{sum(chosen(result) for result in self.results):,} {word}"
            for word, chosen in (
                ("passed", lambda result: result.passed),
                ("did not pass", lambda result: result.status == "done" and not result.passed),
                ("failed", lambda result: result.status == "failed"),
                ("not run", lambda result: result.status == "waiting"),
            )
        ]
        return (
            f"{len(self.results):,} cases, worst first: {', '.join(counts)}. Moved over the outline of fixed, "
            f"coloured by distance from 0 to {FULL:.0%} of fixed's diameter."
        )

    def image(self) -> NDArray[np.uint8]:
        """The sheet as a picture, (height, width, 3) bytes, with the worst :data:`MOST_ON_SHEET` cases."""
        from otreg.visualize.sheet import Sheet

        shown = self.results[:MOST_ON_SHEET]
        columns = min(max(math.ceil(math.sqrt(1.4 * len(shown))), 3), 10)
        rows = -(-len(shown) // columns)
        cell = (SIZE[0] + _GAP, SIZE[1] + 4 * _FONT + _GAP)
        head = 6 * _FONT
        sheet = Sheet(columns * cell[0] + _GAP, head + rows * cell[1] + _GAP)
        sheet.text(self.title, _GAP, 1.5 * _FONT, round(1.4 * _FONT), bold=True)
        left_out = len(self.results) - len(shown)
        words = self.words + (f" Left out here: the {left_out:,} best." if left_out else "")
        for line, part in enumerate(textwrap.wrap(words, columns * _WORDS * 5 // 7)[:2]):
            sheet.text(part, _GAP, (3.3 + 1.4 * line) * _FONT, _FONT)
        for place, result in enumerate(shown):
            left = _GAP + place % columns * cell[0]
            top = head + place // columns * cell[1]
            if not result.passed:
                sheet.fill(left - 2, top - 2, SIZE[0] + 4, SIZE[1] + 4, _BAD)
            sheet.fill(left, top, *SIZE, _PALE)
            picture = self._picture(result)
            if picture is not None:
                sheet.put(_pixels(picture), left, top)
            name, *others = (
                textwrap.shorten(line, _WORDS * 5 // 7, placeholder="…") for line in caption(result)
            )
            sheet.text(name, left, top + SIZE[1] + _FONT, _FONT, bold=True)
            for line, part in enumerate(others[:1]):
                sheet.text(part, left, top + SIZE[1] + (2.4 + line) * _FONT, _FONT)
        return sheet.image

    def html(self) -> str:
        """The sheet as a page that needs nothing beside it; names lead to the folders of the cases."""
        cards = []
        for result in self.results:
            picture = self._picture(result)
            seen = '<div class="none"></div>'
            if picture is not None:
                seen = f'<img loading="lazy" alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
            name, *others = (html.escape(line) for line in caption(result))
            link = (
                f'<a href="{html.escape(result.name, quote=True)}/">{name}</a>'
                if result.status == "done"
                else name
            )
            bad = "" if result.passed else ' class="bad"'
            tone = "" if result.passed else ' class="reason"'
            below = "".join(f"<br><span{tone}>{line}</span>" for line in others)
            cards.append(f"<figure{bad}>{seen}<figcaption>{link}{below}</figcaption></figure>")
        return _PAGE.format(
            title=html.escape(self.title),
            words=html.escape(self.words),
            width=SIZE[0],
            height=SIZE[1],
            cards="\n".join(cards),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as ``.png`` or ``.html``, whole or not at all."""
        target = Path(path)
        if target.suffix.lower() not in (".png", ".html"):
            raise InputError(
                f"{target}: an overview is written as PNG or HTML; end its name in .png or .html"
            )
        content = self.html().encode() if target.suffix.lower() == ".html" else self._repr_png_()
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return target

    def _repr_png_(self) -> bytes:
        from otreg.visualize.screen import png_bytes

        return png_bytes(self.image())


def _badness(result: CaseResult) -> tuple[int, float]:
    rank = {"failed": 3, "waiting": 0}.get(result.status, 1 if result.passed else 2)
    after = result.figures.get("assd_after")
    return rank, 0.0 if after is None or not result.diameter else after / result.diameter


def caption(result: CaseResult) -> list[str]:
    """Name, distance, and what is wrong: the lines below a small picture."""
    lines = [result.name]
    after = result.figures.get("assd_after")
    if after is not None and result.diameter:
        before = result.figures.get("assd_before")
        start = "" if before is None else f"from {before:.3g} to "
        lines.append(f"{start}{after:.3g} ({after / result.diameter:.2%})")
    if result.reason is not None:
        lines.append(result.reason)
    elif result.status == "waiting":
        lines.append("not run yet")
    return lines


def thumbnail(what: Registration | Run) -> bytes | None:
    """A small picture of a registration as PNG; None where this machine cannot draw.

    The view is along the fixed shape's flattest axis, as in ``otreg render``; colours are distances from moved to
    fixed, full at :data:`FULL` of the fixed one's diameter, so that small pictures can be compared.
    """
    from otreg.visualize import scene
    from otreg.visualize.draw import draw_panel
    from otreg.visualize.run import Run
    from otreg.visualize.screen import png_bytes

    # without data of their own, of which one may be called distance
    moving, fixed, moved = (
        Surface(shape.points, shape.triangles, frame=shape.frame)
        for shape in (what.moving, what.fixed, what.moved)
    )
    try:
        seen = scene(
            Run(moving, fixed, moved, None),
            panels=("overlay",),
            color_by="distance",
            limits=(0.0, FULL * fixed.diameter),
        )
        return png_bytes(draw_panel(seen, SIZE))
    except OtregError:
        return None


def _pixels(picture: bytes) -> NDArray[np.uint8]:
    """Pixels of a PNG, (height, width, 3)."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOCore import vtkMemoryResourceStream
    from vtkmodules.vtkIOImage import vtkPNGReader

    stream, reader = vtkMemoryResourceStream(), vtkPNGReader()
    stream.SetBuffer(picture, len(picture))
    reader.SetStream(stream)
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    return np.ascontiguousarray(flat.reshape(height, width, -1)[::-1, :, :3])
