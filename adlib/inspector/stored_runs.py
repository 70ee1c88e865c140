"""Stored runs in the inspector: which of them can be laid side by side, and a menu of such sets."""

from collections import defaultdict
from html import escape
from pathlib import Path, PurePath

import ipywidgets as widgets
import pandas as pd

from adlib.errors import InputError
from adlib.predictions import Predictions
from adlib.report.banner import banner
from adlib.runs.changed_files import change_warning
from adlib.runs.one_place import in_one_place
from adlib.runs.record import FAILED, FINISHED
from adlib.runs.standing import compared
from adlib.runs.store import Store
from adlib.runs.titles import distinct_tails, told_apart


def ensure_run(out: str | Path) -> None:
    """Where no run below `out` is finished, do the quickest there is: PatchCore on drawn X-rays, as the profile
    `smoke` has it (about a minute on two cores). Raises RuntimeError with the reason if it fails.
    """
    from adlib.reproduce import make_plan
    from adlib.runs.batch import run_all
    from adlib.runs.profile import read_profile

    store = Store(Path(out).resolve() / "runs")
    if any(record["status"] == FINISHED for record in store.records()):
        return
    cells = make_plan(["cxr_ad"], read_profile("smoke"))
    run = next(cell.run for cell in cells if cell.run and cell.method == "patchcore" and cell.category == "UB")
    (record,) = run_all([run], store, jobs=1, progress=False)
    if record["status"] == FAILED:
        raise RuntimeError(f"{run.title}: {record['reason']}")


def run_table(out: str | Path, keys: list[str] | tuple[str, ...] = ()) -> pd.DataFrame:
    """The runs of `comparable_runs`, one row each by its key: data, name, seed, main metrics, when it ended.

    A metric is NaN where it stands for nothing, as on the index (adlib.runs.standing.compared).
    """
    rows = []
    for data, records in comparable_runs(out, keys).items():
        for name, record in zip(run_names(records), records, strict=True):
            metrics = {
                metric: record["metrics"].get(metric) if compared(record, metric) else None
                for metric in ("image_auroc", "pixel_auroc", "aupro")
            }
            row = {"key": record["key"], "data": data, "name": name, "seed": record["run"]["seed"]}
            rows.append(row | metrics | {"ended": record["ended"]})
    return pd.DataFrame(rows).set_index("key")


def comparable_runs(out: str | Path, keys: list[str] | tuple[str, ...] | str = ()) -> dict[str, list[dict]]:
    """Records of the finished runs below `out` by the name of their data: "cxr_ad/UB" -> runs, the newest set first.

    Runs of one set have the same data (dataset, category, fingerprint), so their predictions are of the same images.
    keys: these runs alone, by the 16 digits that name their folder in out/runs, or one as it is; all if none is given.
    Raises InputError when there is no finished run, or none of a given key.
    """
    store = Store(Path(out) / "runs")
    records = {record["key"]: record for record in store.records() if record["status"] == FINISHED}
    records = {key: record for key, record in records.items() if (store.path(key) / "predictions").is_dir()}
    if not records:
        raise InputError(
            f"There is no finished run in {store.folder}: make one with `adlib run` or `adlib reproduce`, or give the "
            "folder that was their --out."
        )
    keys = [keys] if isinstance(keys, str) and keys else keys  # whose letters are no keys
    for key in keys:
        if key not in records:
            raise InputError(f"There is no finished run {key} in {store.folder}: `ls` there shows the keys.")
    sets = defaultdict(list)
    for key in keys or reversed(records):
        run = records[key]["run"]
        sets[run["dataset"], run["category"], records[key]["data"]["fingerprint"]].append(records[key])
    return dict(zip(_data_names(list(sets.values())), sets.values(), strict=True))


def _data_names(sets: list[list[dict]]) -> list[str]:
    """A name for the data of each set of runs: dataset and category; of images of one's own their folder.

    Where several have the same, the first of these that tells them apart is in brackets: drawn or real, the folder,
    the number of training images, when the newest run ended; at last their number.
    """
    firsts = [records[0] for records in sets]
    names = [_place(record["run"]) for record in firsts]
    for name in {name for name in names if names.count(name) > 1}:
        places = [at for at, other in enumerate(names) if other == name]
        tellings = [
            [_kind(firsts[at]) for at in places],
            [f"in {tail}" for tail in distinct_tails([firsts[at]["run"]["root"] for at in places])],
            [_trained_on(firsts[at]) for at in places],
            [f"until {max(record['ended'] for record in sets[at])[:16].replace('T', ' ')}" for at in places],
            [f"no. {number}" for number, _ in enumerate(places, 1)],
        ]
        texts = next(texts for texts in tellings if len(set(texts)) == len(places))
        for at, text in zip(places, texts, strict=True):
            names[at] = f"{name} ({text})"
    return names


def _place(run: dict) -> str:
    """ "cxr_ad/UB"; of a folder of one's own its name in the place of the word "folder"."""
    dataset = PurePath(run["root"]).name if run["dataset"] == "folder" else run["dataset"]
    dataset = dataset or run["dataset"]
    return f"{dataset}/{run['category']}" if run["category"] and run["category"] != dataset else dataset


def _kind(record: dict) -> str:
    """Whether the data are real; if not, how the phantom was drawn."""
    phantom = record["data"]["phantom"]
    options = (phantom or {}).get("options")
    difficulty = options.get("difficulty", "") if isinstance(options, dict) else ""
    return "real" if phantom is None else ", ".join(filter(None, ("drawn", str(difficulty))))


def _trained_on(record: dict) -> str:
    return f"{sum(count.get('train', 0) for count in record['data'].get('counts', {}).values())} training images"


def run_names(records: list[dict]) -> list[str]:
    """A name for each run as tables' rows have it: its method, and where several are of one method what tells these
    apart (adlib.runs.titles). No two are the same.
    """
    names = [""] * len(records)
    for method in dict.fromkeys(record["run"]["method"] for record in records):
        places = [at for at, record in enumerate(records) if record["run"]["method"] == method]
        for at, told in zip(places, told_apart([records[at] for at in places]), strict=True):
            names[at] = f"{method}, {told}" if told else method
    return names


def load_runs(out: str | Path, records: list[dict]) -> dict[str, Predictions]:
    """name -> Predictions of stored runs, ready for `adlib.inspect`; the maps stay on disk."""
    store = Store(Path(out) / "runs")
    folders = [store.path(record["key"]) / "predictions" for record in records]
    return dict(zip(run_names(records), in_one_place(map(Predictions.load, folders)), strict=True))


def notes_file(out: str | Path) -> Path:
    """Where the notes on the runs below `out` are kept: one file for all, which outlives the runs."""
    return Path(out) / "review_notes.csv"


def notes_table(out: str | Path) -> pd.DataFrame:
    """The notes on the runs below `out`: image (file name), category, defect, mark, text, when written."""
    from adlib.inspector import ReviewNotes

    notes = ReviewNotes(notes_file(out)).table()
    return notes.assign(image=[Path(image).name for image in notes["image"]]).drop(columns="label")


class RunInspector(widgets.VBox):
    """The inspector over one set of runs at a time, and a menu of the sets where there are several.

    sets: of `comparable_runs`. A set that cannot be shown (its images are gone) says so in its place.
    """

    def __init__(self, out: str | Path, sets: dict[str, list[dict]], root: str | Path | None = None):
        self.out, self.sets, self.root = Path(out), sets, root
        self.menu = widgets.Dropdown(
            options=list(sets), description="data", tooltip="What the runs have scored", layout={"width": "max-content"}
        )
        self.menu.add_class("adlib-data")
        self.place = widgets.VBox(self._view())
        self.place.add_class("adlib-place")
        self.menu.observe(self._change, "value")
        super().__init__([self.menu, self.place])
        self.add_class("adlib-runs")

    def _view(self) -> list[widgets.Widget]:
        import adlib

        records = self.sets[self.menu.value]
        try:
            shown = adlib.inspect(load_runs(self.out, records), notes=notes_file(self.out), root=self.root)
        except InputError as error:
            return [widgets.HTML(f'<p role="alert">{escape(str(error))}</p>')]
        store = Store(self.out / "runs")
        changed = change_warning(store.path(record["key"]) / "predictions" for record in records)
        warnings = [text for record in records for text in record["warnings"]]
        return [widgets.HTML(banner([*warnings, changed]).data), shown]

    def _change(self, _) -> None:
        old, self.place.children = self.place.children, self._view()
        for widget in old:
            widget.close()

    def _repr_mimebundle_(self, **options) -> dict:
        """As of any widget; for pages without a kernel with what its parts leave there (banner, contact sheet)."""
        bundle = super()._repr_mimebundle_(**options)
        parts = [
            part.value if isinstance(part, widgets.HTML) else part._repr_mimebundle_().get("text/html", "")
            for part in self.place.children
        ]
        return bundle | {"text/html": "\n".join(parts)}


def inspect_runs(
    out: str | Path, keys: list[str] | tuple[str, ...] = (), root: str | Path | None = None
) -> RunInspector:
    """The inspector over the stored runs below `out`, those of one set side by side.

    keys: as in `comparable_runs`. root: as in `adlib.inspect`. Notes are kept in `notes_file`.
    """
    return RunInspector(out, comparable_runs(out, keys), root)
