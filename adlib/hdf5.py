"""Pictures inside HDF5 files, named like files: "file.h5::dataset::index".

A dataset holds N pictures along its first axis: [N, H, W] or [N, H, W, 1] grey, [N, H, W, 3] RGB; [N, 1, H, W] and
[N, 3, H, W] are read too. h5py is imported when the first such name is met.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from adlib.errors import InputError

SUFFIXES = (".h5", ".hdf5")
_NAME = re.compile(r"(?P<file>.+?\.(?:h5|hdf5))::(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def split_name(path: str | Path) -> tuple[Path, str, int] | None:
    """(file, dataset, index) of "file.h5::dataset::index"; None for the name of an ordinary file.

    Raises InputError for a name that begins like one of a picture in an HDF5 file and is none.
    """
    name = _NAME.fullmatch(str(path))
    if name is None:
        return None
    dataset, mark, index = name["rest"].rpartition("::")
    if not (dataset and mark and index.isdecimal()):
        raise InputError(f"{path} names no picture in an HDF5 file: expected file.h5::dataset::index.")
    return Path(name["file"]), dataset, int(index)


def file_and_inside(name: str) -> tuple[str, str]:
    """(file, "dataset::index") of "file.h5::dataset::index"; (name, "") of an ordinary file, even of one with "::"."""
    found = _NAME.fullmatch(name) if "::" in name else None
    return (name, "") if found is None else (found["file"], found["rest"])


def read_picture(path: str | Path) -> np.ndarray:
    """The stored values of one picture: [H, W] or RGB [H, W, 3], in the file's own dtype.

    Raises InputError when the file, the dataset or the index is not there, or is no picture.
    """
    file, name, index = split_name(path)
    with _open_dataset(file, name) as dataset:
        _picture_shape(file, name, dataset.shape)
        _need_index(path, index, dataset.shape)
        picture = dataset[index]
    if picture.ndim == 3 and picture.shape[2] not in (1, 3):
        picture = picture.transpose(1, 2, 0)
    return picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture


def picture_shape(path: str | Path) -> tuple[int, int]:
    """(H, W) of one picture, without reading it. Raises InputError as `read_picture` does."""
    file, name, index = split_name(path)
    with _open_dataset(file, name) as dataset:
        shape = _picture_shape(file, name, dataset.shape)
        _need_index(path, index, dataset.shape)
    return shape


def describe(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every dataset of an HDF5 file: name -> (shape, dtype)."""
    found = {}
    with _open(file) as opened:
        opened.visititems(
            lambda name, item: found.update({name: (item.shape, str(item.dtype))}) if hasattr(item, "dtype") else None
        )
    return found


def need_dataset(file: Path, name: str) -> tuple[int, ...]:
    """The shape of a dataset. Raises InputError, listing every dataset with shape and dtype, when it is not there."""
    with _open_dataset(file, name) as dataset:
        return dataset.shape


def read_values(file: Path, name: str) -> np.ndarray:
    """A whole dataset, for small ones such as labels."""
    with _open_dataset(file, name) as dataset:
        return dataset[()]


def has_foreground(file: Path, name: str, at_once: int = 256) -> np.ndarray:
    """bool [N]: which masks of a dataset have a value other than 0; `at_once` masks are in memory together.

    A negative value or NaN is none that a mask may have: its patch is no normal one, and reading the mask says so.
    """
    with _open_dataset(file, name) as dataset:
        found = np.zeros(dataset.shape[0], bool)
        for start in range(0, len(found), at_once):
            masks = dataset[start : start + at_once]
            found[start : start + at_once] = (masks != 0).reshape(len(masks), -1).any(1)
    return found


@contextmanager
def _open(file: Path) -> Iterator:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{file} is an HDF5 file, and h5py is not installed: pip install h5py.") from error
    if not file.is_file():
        raise InputError(f"{file} does not exist.")
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise InputError(f"{file} cannot be opened as an HDF5 file: is it truncated? ({error})") from error
    with opened:
        yield opened


@contextmanager
def _open_dataset(file: Path, name: str) -> Iterator:
    with _open(file) as opened:
        dataset = _inside(opened, file, name)
        if not hasattr(dataset, "dtype"):  # absent, or a group
            found = [f"{key} {list(shape)} {dtype}" for key, (shape, dtype) in describe(file).items()]
            raise InputError(f"{file} has no dataset {name!r}; it holds {'; '.join(found) or 'none at all'}.")
        if dataset.external or dataset.is_virtual:
            raise InputError(f"{file}: the dataset {name!r} lies in other files, which are not read: copy it into one.")
        try:
            yield dataset
        except OSError as error:
            raise InputError(f"{file}: the dataset {name!r} cannot be read: {error}.") from error


def _inside(opened, file: Path, name: str, left: int = 40):
    """What a name leads to, step by step and never out of the file; None where it leads nowhere.

    Raises InputError for a link to another file: a data set from elsewhere could have any file read by it.
    """
    import h5py

    item, steps = opened, [step for step in name.split("/") if step not in ("", ".")]
    for number, step in enumerate(steps):
        if not isinstance(item, h5py.Group):
            return None
        try:
            link = item.get(step, getlink=True)
        except (KeyError, TypeError, ValueError):  # none, or of a kind of its own
            link = None
        if isinstance(link, h5py.ExternalLink):
            raise InputError(f"{file}: {name!r} is a link to the file {link.filename}, which is not followed: copy it.")
        if isinstance(link, h5py.SoftLink):
            rest = "/".join(steps[number + 1 :])
            base = "" if link.path.startswith("/") else item.name
            return _inside(opened, file, f"{base}/{link.path}/{rest}", left - 1) if left else None
        item = item[step] if isinstance(link, h5py.HardLink) else None
    return item


def _picture_shape(file: Path, name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 3:
        return shape[1], shape[2]
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[2], shape[3]
    raise InputError(f"{file}: the dataset {name!r} has shape {list(shape)}; pictures are [N, H, W] or [N, H, W, 3].")


def _need_index(path: str | Path, index: int, shape: tuple[int, ...]) -> None:
    if index >= shape[0]:
        raise InputError(f"{path} does not exist: that dataset holds {shape[0]} pictures, counted from 0.")
