"""The points of a study's figure as a menu: a choice opens that sample in the inspector, where a kernel lives."""

from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib.errors import InputError
from adlib.inspector.stored_runs import load_runs, notes_file
from adlib.report.run_details import finished_cells
from adlib.runs.store import Store

NARROWER = ("method", "seed", "setting")  # columns of points that say which runs are meant


def open_points(study: str, out: str | Path, points: pd.DataFrame) -> widgets.Widget | HTML:
    """A menu of samples; each opens in the inspector, with the study's runs on it side by side.

    study, out: as of `adlib reproduce study --out out`. points: a row per sample, with the columns label (what the menu
    says), dataset, category, image (as in the samples table), and of method, seed and setting those that tell which
    runs are meant; without a seed each method's first.
    In a page without a kernel a sentence stands in its place.
    """
    if points.empty:
        return HTML("<p>There is no sample to open.</p>")
    return SamplePoints(study, out, points)


class SamplePoints(widgets.VBox):
    """The widget of `open_points`. menu: the choice, of the row's number; place: what it has opened."""

    def __init__(self, study: str, out: str | Path, points: pd.DataFrame):
        self.study, self.out, self.points = study, Path(out), points.reset_index(drop=True)
        self.menu = widgets.Dropdown(
            options=[("choose a sample", None), *((label, at) for at, label in enumerate(self.points["label"]))],
            description="open",
            tooltip="Opens in the inspector below",
            layout={"width": "max-content", "max_width": "100%"},
        )
        self.menu.index = 0  # the value None alone shows a blank
        self.place = widgets.VBox()
        self.menu.observe(self._change, "value")
        super().__init__([self.menu, self.place])

    def records(self, point: pd.Series) -> list[dict]:
        """The study's finished runs on a point's sample: each method's, with each of its settings, of one seed."""
        named, found, store = [name for name in NARROWER if name in point], {}, Store(self.out / "runs")
        for cell, record in sorted(finished_cells(self.study, self.out), key=lambda pair: pair[0]["seed"]):
            joint = not record["run"]["category"]
            here = cell["dataset"] == point["dataset"] and (joint or cell["category"] == point["category"])
            meant = all(cell[name] == point[name] for name in named)
            if here and meant and (store.path(record["key"]) / "predictions").is_dir():
                found.setdefault((cell["method"], cell["setting"]), record)
        return list(found.values())

    def _change(self, change: dict) -> None:
        old, self.place.children = self.place.children, self._opened(change["new"])
        for widget in old:
            widget.close()

    def _opened(self, number: int | None) -> list[widgets.Widget]:
        import adlib

        if number is None:
            return []
        point = self.points.iloc[number]
        try:
            records = self.records(point)
            if not records:
                raise InputError("The runs on this sample are no longer there.")
            inspector = adlib.inspect(load_runs(self.out, records), notes=notes_file(self.out))
            index = np.flatnonzero(inspector.joined.samples["image"] == point["image"])
            if not len(index):
                raise InputError(f"{point['image']} is not among the images that these runs share.")
        except InputError as error:
            return [widgets.HTML(f'<p role="alert">{escape(str(error))}</p>')]
        inspector.go(int(np.flatnonzero(inspector.shown == index[0])[0]))
        return [inspector]

    def _repr_mimebundle_(self, **options) -> dict:
        """As of any widget; for pages without a kernel with a sentence on what would be here."""
        number = len(self.points)
        said = f"In Jupyter a menu stands here that opens {'this sample' if number == 1 else f'these {number} samples'}"
        return super()._repr_mimebundle_(**options) | {"text/html": f"<p>{said} in the inspector.</p>"}
