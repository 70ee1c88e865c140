"""How figures look on any page: no background, and ink that is read on white paper, in the light and in the dark."""

from functools import partial
from io import BytesIO

INK = "#7a7f87"  # more than 4 to 1 against white as against the dark pages' #14181d
NORMAL, ANOMALOUS = "#4477aa", "#cc3311"  # told apart by colour-blind readers too
BLACK = (0.0, 0.0, 0.0, 1.0)


def finish(figure):
    """A matplotlib Figure, closed (a notebook shows it once), without background, what was black in `INK`.

    Text and lines of other colours keep theirs, and so do grounds that are not white. Returns the figure, which shows
    itself in a notebook.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.text import Text

    figure.set_facecolor("none")
    for axis in figure.axes:
        if to_rgba(axis.get_facecolor())[:3] == (1, 1, 1):
            axis.set_facecolor("none")
        axis.tick_params(which="both", color=INK, labelcolor=INK)  # ticks are made when they are drawn
        for part in (*axis.spines.values(), *axis.lines):
            blacks = part.get_edgecolor() if hasattr(part, "get_edgecolor") else part.get_color()
            if to_rgba(blacks) == BLACK:
                part.set_color(INK)
        if legend := axis.get_legend():
            legend.get_frame().set_alpha(0)
    for text in figure.findobj(Text):
        if to_rgba(text.get_color()) == BLACK:
            text.set_color(INK)
    plt.close(figure)
    figure._ipython_display_ = partial(_show, figure)
    return figure


def plain_log(axis) -> None:
    """Plain numbers along a logarithmic matplotlib axis, on which all is drawn: 0.1, 0.2, 0.5, 1 ...; more of them
    where it spans less than a decade, since one number alone gives no scale, and one per decade beyond three.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    between = (1, 2, 5) if high >= 10 * low else (1, 1.5, 2, 3, 4, 6, 8)
    axis.set_major_locator(LogLocator(subs=(1,) if high > 1000 * low else between))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _show(figure) -> None:
    """What IPython calls to show a closed figure: its PNG as IPython would make it, in half the time.

    Packed lightly, which makes it hardly larger; and cropped, for which all is measured and drawn once more, only where
    a layout engine chose the places.
    """
    from IPython.display import display

    drawn, crop = BytesIO(), None if figure.get_layout_engine() is None else "tight"
    figure.savefig(drawn, format="png", bbox_inches=crop, pil_kwargs={"compress_level": 1})
    display({"image/png": drawn.getvalue(), "text/plain": repr(figure)}, raw=True)
