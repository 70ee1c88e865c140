"""The record: what a run leaves behind as its lab book. JSON, the only thing that tables read."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from adlib.files import write_text
from adlib.plugins import package_code
from adlib.runs import environment
from adlib.runs.run import Run
from adlib.runs.schema import STATUSES, VERSION, checksum
from adlib.training_set import describe_auxiliary, describe_training_set

FINISHED, FAILED = STATUSES
AREAS = ("pixel_auroc", "pixel_ap", "aupro")
ROUNDING = 5e-4  # a twentieth of a point, by which stored maps may move them
MANY = 1024  # numbers of half precision in maps: of so many, no pair of pixels that matters becomes equal


class Recorder:
    """Collects a record while a run is under way.

    recorder = Recorder(run)
    with recorder.phase("fit"): ...
    recorder.finish(model, predictions, metrics, out)
    """

    def __init__(self, run: Run):
        self.run = run
        self.started = _now()
        code_of(run)  # that of now, whatever becomes of the files while the run goes on
        self.seconds: dict[str, float] = {}
        self.folder: Path | None = None  # where checkpoints lie
        self.found: dict[str, tuple] = {}  # by name: predictions, and what was found of them

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase ("fit", "predict", "evaluate"), wall clock."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def trivial(self, predictions, images=None, training=None) -> dict[str, dict[str, dict]]:
        """What trivial baselines reach on the images of the predictions (adlib.baselines), for the record; timed.

        images: the ImageSet that was predicted on. training: that which was fitted on.
        """

        def compute() -> dict:
            from adlib.baselines import trivial_metrics

            with self.phase("baselines"):
                return trivial_metrics(predictions, images, training)

        return self._once("baselines", predictions, compute)

    def intervals(self, predictions) -> dict[str, dict]:
        """95 % bootstrap intervals of the image metrics, for the record, as it keeps them."""
        return self._once("intervals", predictions, lambda: _intervals(predictions))

    def by_category(self, predictions) -> dict[str, dict]:
        """Metrics of each category of a joint run, for the record, as it keeps them; {} of one category."""
        return self._once(
            "categories",
            predictions,
            lambda: _metrics_by(predictions.known.samples["category"], predictions, self.run.pro_variants),
        )

    def by_group(self, predictions, metrics: dict) -> dict[str, dict]:
        """Metrics of each sub-class or modality, for the record: by its name, in a joint run by "category/name".

        Of a category with but one they are the whole's, which `metrics` are. Samples whose group is their category, or
        that have none, are no sub-class.
        """
        samples = predictions.known.samples
        joint = samples["category"].nunique() > 1
        inner = (samples["group"] != "") & (samples["group"] != samples["category"])
        names = (samples["category"] + "/" + samples["group"] if joint else samples["group"]).where(inner, "")
        if not joint and inner.all() and names.nunique() == 1:
            whole = _without_nan(metrics) | _oracle_decisions(predictions, metrics)
            return {names.iloc[0]: whole | {"intervals": self.intervals(predictions)}}
        return _metrics_by(names, predictions, self.run.pro_variants)

    def _once(self, name: str, predictions, compute: Callable[[], dict]) -> dict:
        """What compute() gives, once for the same predictions: the notebook shows it, then the record keeps it."""
        if name not in self.found or self.found[name][0] is not predictions:
            self.found[name] = predictions, compute()
        return self.found[name][1]

    def checkpoint(self, out: str | Path) -> Path | None:
        """Where training keeps its progress in the run's folder: if this attempt is killed, the next goes on from it.
        It lies there until the record is written: scoring may take hours too.
        """
        from adlib.memory.unfinished import gone_on_from

        if not out:
            return None
        self.folder = Path(out)
        gone_on_from.clear()
        return self.folder / "checkpoint"

    @property
    def resumed(self) -> bool:
        """Whether the training went on from what an earlier attempt had noted: its times are of the last one alone."""
        from adlib.memory.unfinished import gone_on_from

        return any(file.parent == self.folder for file in gone_on_from)

    def finish(self, model, predictions, metrics: dict, out: str | Path = "") -> dict:
        """The record of a run that ended well; written with its predictions into the folder `out` if one is given."""
        from adlib.samples import count, file_fingerprints, phantom_facts

        metrics = dict(metrics)
        of_model = [*model.warnings, *model.resumed_notes, *model.memory_notes]
        record = {
            "version": VERSION,
            "status": FINISHED,
            "key": self.run.key,
            "run": self.run.as_dict(),
            "parameters": model.parameters,
            "images": predictions.seen_settings,
            "data": {
                "fingerprint": self.run.fingerprint,
                "scored": file_fingerprints(predictions.samples),
                "phantom": phantom_facts(self.run.samples),
                "counts": count(self.run.samples).to_dict("index"),
                "training": _learned(self.run),
            },
            "weights": model.origin,
            "choices": model.choices,
            "warnings": list(dict.fromkeys([*self.run.warnings, *of_model, *_lost_masks(predictions)])),
            "ground_truth": _ground_truth(predictions, metrics),
            "reasons": metrics.pop("reasons", {}),
            "metrics": _without_nan(metrics),
            "intervals": self.intervals(predictions),
            "oracle": _oracle_decisions(predictions, metrics),
            "baselines": self.trivial(predictions),
            "categories": self.by_category(predictions),
            "groups": self.by_group(predictions, metrics),
            "seconds": self.seconds,
            "resumed": self.resumed,
            "resumed_from": model.resumed_from,
            "shared": _shared(model),
            "peak_memory_mib": round(environment.peak_memory_mib()),
            "peak_gpu_memory_mib": environment.peak_gpu_memory_mib(model.device_),
            "environment": environment.versions() | environment.hardware(model.device_) | _asked(),
            "code": code_of(self.run),
            "started": self.started,
            "ended": _now(),
        }
        if out:
            _save_predictions(predictions, Path(out) / "predictions", metrics)
            write_record(Path(out), record)
            for left in Path(out).glob("checkpoint*"):
                left.unlink()
        return record


def _asked() -> dict[str, str]:
    return {"command": environment.command_line()}


def _learned(run: Run) -> dict[str, dict]:
    """What the run learned from, in numbers, by category: of its data set, or of the auxiliary ones; {} for a zero-shot
    method whose prompts others have learned.
    """
    if run.create_model().facts.joint == "no target":
        return {} if run.auxiliary is None else describe_auxiliary(run.auxiliary)
    return describe_training_set(run.all_samples, run.samples)


def _shared(model) -> dict[str, int]:
    """What the run took over from others and what it left to them, in images: the times are shorter by the former."""
    return {} if model.feature_cache is None else dict(model.feature_cache.counts)


def _without_nan(metrics: dict) -> dict:
    """The numbers alone; JSON knows no NaN, so an undefined metric is null."""
    return {
        name: None if math.isnan(value) else value for name, value in metrics.items() if isinstance(value, int | float)
    }


def _intervals(predictions, replicates: int = 1000) -> dict[str, dict]:
    """95 % bootstrap intervals of the image metrics over the test images, normal and anomalous ones drawn apart; over
    items where the samples name them.

    Returns {metric: {"low", "high", "std"}}; an undefined one is null, and "reason" then says why.
    """
    from adlib.metrics.bootstrap import bootstrap_images
    from adlib.samples import items

    predictions = predictions.known
    samples = predictions.samples
    found = bootstrap_images(samples["label"].to_numpy(), predictions.scores, replicates, items=items(samples))
    reasons = found.pop("reasons", {})
    return {
        metric: _without_nan({name: values[name] for name in ("low", "high", "std")})
        | ({"reason": reasons[metric]} if metric in reasons else {})
        for metric, values in found.items()
    }


def _save_predictions(predictions, folder: Path, metrics: dict) -> None:
    """Scores, samples, and the maps in half the bytes: float16, memory-mapped when read.

    Kept as float32 are maps beyond float16's range of 65504, and those that lie so close together that rounding to 11
    bits moves one of AREAS by more than ROUNDING: values of 0.48 all over have but some forty numbers left. The metrics
    of the record are of the full maps; what is computed from stored ones may differ by that much.
    """
    import numpy as np

    from adlib.predictions import seal

    maps = predictions.maps
    replace(predictions, maps=None).save(folder)
    if maps is not None:
        fits = len(maps) == 0 or float(np.abs(maps).max()) <= float(np.finfo(np.float16).max)
        halves = maps.astype(np.float16) if fits else None
        np.save(folder / "maps.npy", maps.astype(np.float32) if _moved(predictions, halves, metrics) else halves)
        seal(folder)


def _moved(predictions, halves, metrics: dict) -> bool:
    """Whether maps in half precision, None where there are none, give other pixel metrics than the whole ones."""
    from adlib.metrics import pixel_metrics

    if halves is None:
        return True
    if _has_many_values(halves):  # as nearly all have: what is told by comparing takes as long as the metrics did
        return False
    known = {name: value for name in AREAS if not math.isnan(value := metrics.get(name, math.nan))}
    if not known:
        return False
    found = pixel_metrics(predictions.known.masks, replace(predictions, maps=halves).known.maps)
    return any(abs(found[name] - value) > ROUNDING for name, value in known.items())


def _has_many_values(halves) -> bool:
    """Whether maps, float16 [N, H, W], hold MANY different values; most tell it by the first of them."""
    import numpy as np

    seen = np.zeros(2**16, bool)
    for each in halves:
        seen[each.view(np.uint16)] = True
        if np.count_nonzero(seen) >= MANY:
            return True
    return False


def _oracle_decisions(predictions, metrics: dict) -> dict:
    """Decision metrics of the images at the threshold of best F1 on these very images: an oracle, and named so."""
    threshold = metrics["image_f1max_threshold"]
    if math.isnan(threshold):
        return {}
    from adlib.metrics import decision_metrics

    predictions = predictions.known
    return _without_nan(decision_metrics(predictions.samples["label"].to_numpy(), predictions.scores, threshold))


def _metrics_by(names, predictions, pro_variants) -> dict[str, dict]:
    """Metrics, oracle decisions and "intervals" of each part of the images of known label by itself; {} where there is
    only one.

    names: a pandas Series, of each of these images the name of its part; "" for those of none.
    """
    from adlib.predictions import evaluate

    predictions = predictions.known
    if names.nunique() < 2:
        return {}
    found = {}
    for name in sorted(set(names) - {""}):
        part = predictions.select(names == name)
        metrics = evaluate(part, pro_variants=pro_variants)
        found[name] = _without_nan(metrics) | _oracle_decisions(part, metrics) | {"intervals": _intervals(part)}
    return found


def _scores_pixels(predictions) -> bool:
    return predictions.judges_pixels and predictions.masks is not None


def _ground_truth(predictions, metrics: dict) -> dict[str, int]:
    """How many masks and defect regions there are, how many of them the size and the crop took away (as
    `ImageSet.ground_truth`), and over how many regions AUPRO is taken; {} where no pixels are scored.
    """
    if not _scores_pixels(predictions):
        return {}
    return predictions.images.ground_truth() | {"aupro_regions": metrics.get("aupro_regions", 0)}


def _lost_masks(predictions) -> list[str]:
    """A warning if defects vanish, or are cut, at the size that is scored: such ones count for no pixel metric."""
    found = predictions.images.ground_truth() if _scores_pixels(predictions) else {}
    texts = []
    if found.get("regions_lost"):
        texts.append(
            f"{found['regions_lost']} of {found['regions']} defect regions have no ground truth left at the size that "
            f"is scored: no pixel metric counts them. Of {found['images']} masks, {found['images_lost']} "
            f"{'is' if found['images_lost'] == 1 else 'are'} empty there."
        )
    if found.get("regions_cut"):
        texts.append(f"{found['regions_cut']} of {found['regions']} defect regions are cut by the crop.")
    return texts


def failure(run: Run, kind: str, reason: str, key: str = "", fingerprint: str = "") -> dict:
    """The record of a run that failed. kind: "error", "kernel died" ...; reason: one line for people.

    key, fingerprint: of the run and of its data, as they were planned. Without a key the run's own is computed, which
    reads the data; a run that has failed because of its data can only be recorded under the key that it was given.
    """
    return {
        "version": VERSION,
        "status": FAILED,
        "key": key or run.key,
        "run": run.as_dict(),
        "data": {"fingerprint": fingerprint or run.__dict__.get("fingerprint", "")},  # where it has been computed
        "kind": kind,
        "reason": reason,
        "environment": environment.versions() | _asked(),
        "code": code_of(run),
        "ended": _now(),
    }


def code_of(run: Run) -> dict:
    """Which code does a run: adlib's (adlib.code_version.code), and `packages`, what gives its method or data set."""
    return environment.code() | package_code(run.method, run.dataset)


def write_record(folder: Path, record: dict) -> None:
    """Write the record of a run into its folder, with the checksum by which a later change is noticed."""
    plain = json.loads(json.dumps(record, allow_nan=False, default=str))
    write_json(folder / "record.json", plain | {"checksum": checksum(plain)})


def write_json(file: Path, content: dict) -> None:
    """Write beside, then rename: the file is whole or absent."""
    write_text(file, json.dumps(content, indent=1, allow_nan=False, default=str))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
