"""The record: what a run leaves behind as its lab book. JSON, the only thing that tables read."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adlib.runs import environment
from adlib.runs.run import Run

FINISHED, FAILED = "finished", "failed"


class Recorder:
    """Collects a record while a run is under way.

    recorder = Recorder(run)
    with recorder.phase("fit"): ...
    recorder.finish(model, predictions, metrics, out)
    """

    def __init__(self, run: Run):
        self.run = run
        self.started = _now()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase ("fit", "predict", "evaluate"), wall clock."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def finish(self, model, predictions, metrics: dict, out: str | Path = "") -> dict:
        """The record of a run that ended well; written with its predictions into the folder `out` if one is given."""
        from adlib.samples import count, phantom_facts

        metrics = dict(metrics)
        record = {
            "status": FINISHED,
            "key": self.run.key,
            "run": self.run.as_dict(),
            "parameters": model.parameters,
            "images": predictions.settings,
            "data": {
                "fingerprint": self.run.fingerprint,
                "phantom": phantom_facts(self.run.samples),
                "counts": count(self.run.samples).to_dict("index"),
            },
            "weights": model.origin,
            "warnings": self.run.warnings + _lost_masks(predictions),
            "reasons": metrics.pop("reasons", {}),
            "metrics": _without_nan(metrics),
            "oracle": _oracle_decisions(predictions, metrics),
            "groups": _metrics_of_groups(predictions),
            "seconds": self.seconds,
            "peak_memory_mib": round(environment.peak_memory_mib()),
            "environment": environment.versions() | environment.hardware(model.device_),
            "code": environment.code(),
            "started": self.started,
            "ended": _now(),
        }
        if out:
            predictions.save(Path(out) / "predictions")
            write_json(Path(out) / "record.json", record)
        return record


def _without_nan(metrics: dict) -> dict:
    """The numbers alone; JSON knows no NaN, so an undefined metric is null."""
    return {
        name: None if math.isnan(value) else value for name, value in metrics.items() if isinstance(value, int | float)
    }


def _oracle_decisions(predictions, metrics: dict) -> dict:
    """Decision metrics of the images at the threshold of best F1 on these very images: an oracle, and named so."""
    threshold = metrics["image_f1max_threshold"]
    if math.isnan(threshold):
        return {}
    from adlib.metrics import decision_metrics

    return _without_nan(decision_metrics(predictions.samples["label"].to_numpy(), predictions.scores, threshold))


def _metrics_of_groups(predictions) -> dict[str, dict]:
    """Metrics of each sub-class or modality by itself, where a category has several."""
    from adlib.predictions import evaluate

    groups = predictions.samples["group"]
    if groups.nunique() < 2:
        return {}
    found = {}
    for group in sorted(groups.unique()):
        found[group] = _without_nan(evaluate(predictions.select(groups == group)))
    return found


def _lost_masks(predictions) -> list[str]:
    """A warning if masks vanish at the size that is scored: such defects count for no pixel metric."""
    if predictions.maps is None or predictions.masks is None:
        return []
    lost = int((~predictions.masks.any((1, 2)) & (predictions.images.labels == 1)).sum())
    return [f"{lost} anomalous images have a mask that vanishes at the size that is scored."] if lost else []


def failure(run: Run, kind: str, reason: str) -> dict:
    """The record of a run that failed. kind: "error", "kernel died" ...; reason: one line for people."""
    return {
        "status": FAILED,
        "key": run.key,
        "run": run.as_dict(),
        "kind": kind,
        "reason": reason,
        "environment": environment.versions(),
        "code": environment.code(),
        "ended": _now(),
    }


def write_json(file: Path, content: dict) -> None:
    """Write beside, then rename: the file is whole or absent."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False, default=str), encoding="utf-8")
    partial.replace(file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
