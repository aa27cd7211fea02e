"""Where things go on a sheet."""

from __future__ import annotations

import numpy as np

from otreg.visualize.layout import Layout
from otreg.visualize.sheet import PlacedRectangle, PlacedText


def test_names_of_labels_begin_after_the_scale_bar() -> None:
    """Whatever the picture's size and the length of the bar."""
    for width in (400, 900, 1800):
        layout = Layout.of((width, 500), panels=1, captions=False, title=False, legend=True)
        for half_height in (7.0, 18.0, 41.0):
            sheet = layout.compose(
                [[np.full((layout.height, layout.panel[0], 3), 255, np.uint8)]], [], [], None, (1, 1, 1), None
            )
            after = layout.add_scale(sheet, half_height, "mm")
            layout.add_names(sheet, ["11", "12"], np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), after)
            words = [one for one in sheet.placed if isinstance(one, PlacedText) and one.words.endswith("mm")]
            swatches = [
                one.left
                for one in sheet.placed
                if isinstance(one, PlacedRectangle) and max(one.colour) == 1.0
            ]
            assert len(words) == 1 and min(swatches) > after > words[0].x
