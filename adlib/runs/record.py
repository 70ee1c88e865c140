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
                "masks_lost": _masks_lost(predictions),
            },
            "weights": model.backbone_.origin if hasattr(model, "backbone_") else None,
            "reasons": metrics.pop("reasons", {}),
            "metrics": {name: None if math.isnan(value) else value for name, value in metrics.items()},
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


def _masks_lost(predictions) -> int:
    """Anomalous images whose mask vanishes at the size that is scored: their defect counts for no pixel metric."""
    if predictions.maps is None or predictions.masks is None:
        return 0
    return int((~predictions.masks.any((1, 2)) & (predictions.images.labels == 1)).sum())


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


def warnings_of(record: dict) -> list[str]:
    """What a reader must know before believing the numbers: phantom data, random weights, lost masks, dirty code."""
    if record["status"] != FINISHED:
        return []
    texts = []
    if drawn := record["data"]["phantom"]:
        texts.append(
            f"Phantom data: drawn by adlib with seed {drawn['seed']}, not {record['run']['dataset']}. "
            "The numbers say that the code works, and nothing about the data set."
        )
    if (record["weights"] or {}).get("kind") == "random":
        texts.append("Random weights: the features were never trained. Detection is far below what the method can do.")
    if lost := record["data"]["masks_lost"]:
        texts.append(f"{lost} anomalous images have a mask that vanishes at the size that is scored.")
    return texts


def write_json(file: Path, content: dict) -> None:
    """Write beside, then rename: the file is whole or absent."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False, default=str), encoding="utf-8")
    partial.replace(file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
