"""How far a long computation is, in a file that the next process goes on from where this one is killed."""

import errno
import json
import time
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from adlib.code_version import code_text
from adlib.errors import InputError
from adlib.gpu_memory import note_shortages, noted_shortages

# The files that this process has gone on from; `Recorder.resumed` asks.
gone_on_from: set[Path] = set()


class Unfinished:
    """The state of a computation, as of its last note; what keeps nothing if there is no file to keep it in.

    file: where notes are written, or None. about: plain values that must be equal for a note to be gone on from.
    interval: seconds between two notes. A note is written beside and renamed, so that it is always whole.
    makers: who computes, this process first: version, commit, dirty, changes, packages (adlib.code_version,
    adlib.plugins), torch, device. They need not be equal, but every note has them, and what is read adds, with a
    warning, the others that had a part in it; {} is one of versions that did not say.
    """

    def __init__(
        self, file: Path | None, about: dict | None = None, interval: float = 300.0, makers: list[dict] | None = None
    ):
        self.file, self.about, self.interval = file, about or {}, interval
        self.makers = [] if makers is None else makers
        self.noted_at = time.monotonic()

    def part(self, name: str, **about) -> "Unfinished":
        """A part of the computation, with a file of its own: FILE.stage-NAME."""
        file = self.file and self.file.with_name(f"{self.file.name}.stage-{name}")
        return Unfinished(file, self.about | about, self.interval, self.makers)

    def read(self) -> dict:
        """The state that was noted last, or {}. Raises InputError for the file of another computation."""
        if self.file is None or not self.file.exists():
            return {}
        try:
            noted = torch.load(self.file, map_location="cpu", weights_only=True)
            about, makers = json.loads(noted.pop("about")), json.loads(noted.pop("makers", "[{}]"))
        except Exception as error:  # torch raises half a dozen types for a file that is not its own
            raise InputError(f"{self.file} is not a checkpoint of adlib ({error}); delete it to start anew.") from error
        now = json.loads(json.dumps(self.about))
        names = {*about} if makers == [{}] else {*about, *now}  # versions that named no makers noted less of weights
        differ = [key for key in sorted(names) if about.get(key) != now.get(key)]
        if differ:
            said = ", ".join(f"{key}={about.get(key)!r}, now {now.get(key)!r}" for key in differ)
            raise InputError(f"{self.file} is a checkpoint of another training: {said}. Delete it to start anew.")
        gone_on_from.add(self.file)
        note_shortages(json.loads(noted.pop("shortages", "{}")))
        for other in makers:
            if self.makers and other not in self.makers:
                self.makers.append(other)
                warnings.warn(mixture(other, self.makers[0]), stacklevel=2)
        return noted

    @property
    def due(self) -> bool:
        """Whether it is time for a note."""
        return self.file is not None and time.monotonic() - self.noted_at >= self.interval

    def note(self, **state) -> None:
        """Write tensors and plain values, as `save_progress` does."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        known = {"about": self.about, "makers": self.makers, "shortages": noted_shortages()}
        save_progress({name: json.dumps(value) for name, value in known.items()} | state, self.file)
        self.noted_at = time.monotonic()


def save_progress(content: dict, file: Path) -> None:
    """Write tensors and plain values beside a file, then rename: it is always whole.

    On a full disk the file stays as it was, and a warning says so: the computation goes on, which would otherwise be
    lost for want of what was to save it. Raises OSError where the disk cannot be written for another reason.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as stream:  # of a name, torch would not tell why it cannot be written
            torch.save(content, stream)
        partial.replace(file)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink()
        why = error if isinstance(error, OSError) else error.__context__
        if not isinstance(why, OSError):
            raise
        if why.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise why from None
        warnings.warn(f"{file} cannot be written ({why.strerror}): what is ended now has to begin anew.", stacklevel=3)


def mixture(other: dict, ours: dict) -> str:
    """A sentence: what another has begun under other conditions was gone on with."""
    if not other:
        return "Resumed from unknown code: the checkpoint does not say which adlib, torch and device wrote it."
    parts = {"code": ("version", "commit", "dirty", "changes", "packages"), "torch": ("torch",), "device": ("device",)}
    differ = [part for part, names in parts.items() if any(other.get(name) != ours.get(name) for name in names)]
    said = [f"adlib {code_text(one)}, torch {one.get('torch')}, {one.get('device')}" for one in (other, ours)]
    return f"Resumed from other {' and '.join(differ)}: the checkpoint is of {said[0]}; it was gone on with {said[1]}."
