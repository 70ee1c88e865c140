"""The inspector: single samples of one or several predictions, with heat maps, decisions and review notes.

`inspect(predictions)` is the front door. Below it, in the direction of imports: `joined` (several predictions as one
table), `selection` (outcomes and order, pure functions), `render` and `panels` (pictures), `decisions` (thresholds),
`tables`, `histogram` and `thumbnails`, `contact_sheet` (the page where no kernel lives), `notes` (the reviewer's CSV),
`canvas` (the parts in the browser), `controls`, and `widget`, which brings them together. Above it, `stored_runs` opens
those of a store, and `sample_points` the samples behind a study's figure.
"""

from collections.abc import Mapping
from pathlib import Path

from adlib.inspector.notes import ReviewNotes
from adlib.inspector.sample_points import open_points
from adlib.inspector.selection import suspected_label_errors
from adlib.inspector.widget import Inspector
from adlib.predictions import Predictions

__all__ = ["Inspector", "ReviewNotes", "inspect", "open_points", "suspected_label_errors"]


def inspect(
    predictions: Predictions | Mapping[str, Predictions],
    notes: str | Path | None = None,
    root: str | Path | None = None,
    threshold: float | Mapping[str, float] | None = None,
) -> Inspector:
    """Look at single samples: picture, ground truth, heat map and decision of each method side by side.

    predictions: of one method, or {name: predictions} of several; of several, the images that all have are shown.
    notes: CSV file of the review notes. None: `review_notes.csv` beside the folder that the predictions were loaded
        from (of several, in the folder that holds them all), else in the working folder.
    root: where the images lie now, if they have moved since: their old root's new place.
    threshold: opening threshold of the image score, one number or {name: number} ("detector" where one method is given
        without a name). None: that of the best F1 on these very labels, an oracle (the middle of the scores where only
        one class is there).

    Returns an `Inspector`, an ipywidgets widget. Shown with a kernel it is live; in a rendered page it leaves a
    contact sheet of the most telling samples. Pictures are drawn as soon as a browser shows the widget; without one,
    call `.draw()`.
    Raises InputError for anything but predictions, for none, for methods with no image in common, for labels or scores
    that contradict one another, and for a threshold of a name that is not among them.
    """
    return Inspector(predictions, notes=notes, root=root, threshold=threshold)
