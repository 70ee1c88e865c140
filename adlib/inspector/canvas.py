"""Canvas and strip: the two parts of the inspector that need code in the browser (canvas.js, strip.js).

They only show what Python has drawn: encoded pictures, and the numbers under the pointer. The one style sheet of the
inspector, canvas.css, comes with the canvas.
"""

from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Canvas(anywidget.AnyWidget):
    """Panels side by side with linked zoom and pan, and a read-out of the values under the pointer.

    panels: of each panel title, caption, alt (text alternative), png (bytes), low and high (ends of its colour scale,
        "" without one).
    values: size [H, W] of the image; grey (bytes, uint8 or little-endian uint16), bits 8 or 16 and shape [h, w, c] of
        its stored values; maps, each with name, data (bytes, little-endian float32) or None, shape [h, w] and frame.
    colour_bar: PNG of the palette. message: shown instead of panels where there are none.

    Sends {"ready": true} when a browser shows it and {"step": 1 or -1} for an arrow key.
    """

    _esm = HERE / "canvas.js"
    _css = HERE / "canvas.css"
    panels = traitlets.List().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    colour_bar = traitlets.Bytes().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)


class Strip(anywidget.AnyWidget):
    """A row of thumbnails, each a button.

    thumbnails: of each its position in the list of shown samples, jpeg (bytes), label (short text), alt, outcome.
    current: the position that is shown. Sends {"go": position} for a click.
    """

    _esm = HERE / "strip.js"
    thumbnails = traitlets.List().tag(sync=True)
    current = traitlets.Int(0).tag(sync=True)
