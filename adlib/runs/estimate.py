"""The estimate: how long the runs that are left will take, and how much disk they will fill."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from adlib.runs.record import FINISHED
from adlib.runs.run import Run
from adlib.runs.standing import taken_over
from adlib.runs.store import Store
from adlib.training_set import TRAINING_SETTINGS

NOTHING_LEFT = "Nothing is left to do."
GUESSED_HOURS = 0.5  # of a run of which nothing like it was timed
NOTEBOOK_BYTES = 2_000_000  # a run's notebook with its pictures, record and scores
BYTES_PER_PIXEL = 2  # float16


@dataclass
class Estimate:
    """hours: of one worker (a GPU, where there is one). timed: runs of which an equal one was timed; guessed: the
    others.
    """

    hours: float
    timed: int
    guessed: int
    disk_bytes: float

    def __str__(self) -> str:
        if not self.timed + self.guessed:
            return NOTHING_LEFT
        text = f"About {self.hours:.1f} hours of one worker (a GPU, where there is one) and {_size(self.disk_bytes)}"
        text += f" of disk for {self.timed + self.guessed} runs"
        if self.guessed:
            text += f"; {self.guessed} of them were never timed and are guessed at {GUESSED_HOURS:g} hours each"
        return text + "."


def estimate(runs: Iterable[Run], store: Store) -> Estimate:
    """What the runs that the store does not have will cost.

    A run takes as long per image as the median of the finished runs of the same method with the same settings, whatever
    their seed, data and training set; an hour on another machine is another hour, so the records should come from
    yours. Runs that went on from a checkpoint are left out: their record times the last part alone. Those that took
    images or features over from other runs are shorter for it, and count only where there is no other. Without any,
    GUESSED_HOURS.
    Disk: float16 maps at the size that is scored, as most are kept, and NOTEBOOK_BYTES.
    """
    timings = _timings(store)
    total = Estimate(0.0, 0, 0, 0.0)
    for run in runs:
        if store.is_finished(run.key):
            continue
        known = timings.get((run.method, _settings(run.settings)))
        if known:
            total.timed += 1
            total.hours += median(known) * len(run.samples) / 3600
        else:
            total.guessed += 1
            total.hours += GUESSED_HOURS
        side = run.image_settings.get("crop") or run.image_settings["size"]
        height, width = side if isinstance(side, list | tuple) else (side, side)
        total.disk_bytes += (run.samples["split"] == "test").sum() * height * width * BYTES_PER_PIXEL + NOTEBOOK_BYTES
    return total


def _timings(store: Store) -> dict[tuple, list[float]]:
    """(method, settings) -> seconds per image of the finished runs."""
    found, shorter = defaultdict(list), defaultdict(list)
    for record in store.records():
        images = sum(sum(counts.values()) for counts in record.get("data", {}).get("counts", {}).values())
        if record["status"] == FINISHED and images and not record.get("resumed"):
            seconds = sum(record["seconds"].values()) / images
            times = shorter if taken_over(record) else found
            times[record["run"]["method"], _settings(record["run"]["settings"])].append(seconds)
    return shorter | found


def _settings(settings: dict) -> str:
    return repr(sorted((name, value) for name, value in settings.items() if name not in TRAINING_SETTINGS))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
