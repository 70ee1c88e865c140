"""Changed files: whether the images and masks of a run that is done are still those that it scored."""

from collections.abc import Iterable
from pathlib import Path

from adlib.errors import InputError
from adlib.hdf5 import file_and_inside
from adlib.predictions import Predictions
from adlib.runs.store import Store
from adlib.samples import file_fingerprints


def changed_files(folder: Path) -> list[str] | None:
    """Which of "images" and "masks" are no longer those that a run scored; None where that cannot be told, because
    files are gone or the record is of a version before.

    folder: of the run's predictions. Files are read once and then remembered (adlib.file_hashes has the cost).
    """
    record = Store(folder.parent.parent).record(folder.parent.name)
    scored = (record or {}).get("data", {}).get("scored")
    if not scored:
        return None
    try:
        samples = Predictions.load(folder).samples
        names = {file_and_inside(name)[0] for column in ("image", "mask") for name in samples[column] if name}
        if not all(Path(name).is_file() for name in names):  # a pipe in a stranger's store would be waited for
            return None
        now = file_fingerprints(samples)
    except InputError:
        return None
    return [name for name in now if now[name] != scored.get(name)]


def change_warning(folders: Iterable[Path]) -> str:
    """The sentence that belongs above what is computed anew from the files of runs; "" where none is known to have
    changed. folders: of the runs' predictions.
    """
    found = [files for folder in folders if (files := changed_files(folder))]
    if not found:
        return ""
    what = " and ".join(name for name in ("images", "masks") if any(name in files for files in found))
    runs = "one run" if len(found) == 1 else f"{len(found)} runs"
    return (
        f"Changed data: the {what} of {runs} are no longer those that were scored. What is shown or counted from "
        "them here is not what the records are of; do these runs again."
    )
