"""Look into folders: the images they hold, the mask of each image, the categories; and say so when one is missing.

No folder is walked in depth, so links that lead in a circle are harmless.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from adlib.errors import InputError, did_you_mean
from adlib.files import refuse_pipe

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
# Pictures under other names, which are not read: what lies about in them is worth a remark.
OTHER_SUFFIXES = {".jfif", ".jpe", ".jif", ".jp2", ".j2k", ".jxl", ".jxr", ".pjpeg", ".gif", ".dib", ".pbm", ".pgm"}
OTHER_SUFFIXES |= {".ppm", ".pnm", ".pfm", ".tga", ".exr", ".hdr", ".heic", ".heif", ".avif", ".psd", ".dng", ".raw"}
OTHER_SUFFIXES |= {".cr2", ".nef", ".arw", ".dcm", ".npy", ".npz", ".mat"}
# What systems and tools leave beside images; names that begin with a dot (.ipynb_checkpoints, ._x.png) come on top.
NEVER_DATA = {"__macosx", "__pycache__", "@eadir", "@tmp", "#recycle", "@recycle", "@recently-snapshot", "#snapshot"}
NEVER_DATA |= {"$recycle.bin", "recycler", "system volume information", "lost+found", "desktop.ini"}
NEVER_DATA |= {"thumbs.db", "ehthumbs.db", "thumbs", "thumbnails", "thumbnail"}
NORMAL_NAMES = ("good", "ok", "normal")
MASK_FOLDERS = ("ground_truth", "ground_truths", "gt", "mask", "masks")
# Folders below test/ of images of which nobody has said yet what they are.
UNKNOWN_NAMES = ("unknown", "unsorted", "unlabelled", "unlabeled", "undecided", "to_review", "to_check", "to_sort")


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: not hidden, not left behind by a system or a tool."""
    return not name.startswith((".", "~$")) and name.casefold() not in NEVER_DATA


def is_named(name: str, names: Iterable[str]) -> bool:
    """Whether a folder's name is one of these, in small or capital letters, with "_", "-", " " or nothing between."""

    def plain(text: str) -> str:
        return text.casefold().replace("_", "").replace("-", "").replace(" ", "")

    return plain(name) in {plain(other) for other in names}


def need_no_masks(folder: Path, instead: str, *truths: Path) -> None:
    """Raise InputError for a folder among those of images that is called as masks are: as images they would be the
    easiest of all defects, or be learned as normal. truths: folders of masks; a defect of that name has its own there.
    """
    if is_named(folder.name, MASK_FOLDERS) and not any((truth / folder.name).is_dir() for truth in truths):
        raise InputError(
            f"{folder} is called as folders of masks are, and its pictures would count as images: {instead}, or give "
            "it another name."
        )


def need_no_masks_beside(images: list[Path]) -> list[Path]:
    """The images. Raises InputError for one that is called as the mask of another beside it ("000_mask" of "000")."""
    stems = {(image.parent, image.stem.casefold()): image for image in images}
    for image in images:
        name, _, ending = image.stem.casefold().rpartition("_")
        if ending in ("mask", "gt") and (owner := stems.get((image.parent, name))):
            raise InputError(
                f"{image} is called as the mask of {owner.name} beside it, and would count as an image: move masks to "
                "a folder of their own, or give it another name."
            )
    return images


def folders_in(folder: Path) -> list[Path]:
    """The folders of one folder that may be data, sorted."""
    return [child for child in sorted(folder.iterdir()) if is_data(child.name) and child.is_dir()]


def images_in(folder: Path) -> list[Path]:
    """The image files of one folder, sorted; hidden ones (macOS archives carry "._NAME.png") are left out."""
    return [f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES and is_data(f.name)]


def left_out(base: Path, used: Iterable[str], besides: tuple[str, ...] = ()) -> list[str]:
    """A sentence per folder below base that holds pictures which are no sample: they lie deeper than they are looked
    for, beside the class folders, or have a suffix that is not read.

    used: the images that are samples. besides: names of folders that are looked at otherwise.
    """
    used, texts = set(used), []
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    for name, below, files in os.walk(base):
        folder = Path(name)
        below[:] = sorted(child for child in below if is_data(child) and child not in ("ground_truth", *besides))
        unread = [folder / f for f in sorted(files) if is_data(f) and str(folder / f) not in used]
        for suffixes, why in (
            (IMAGE_SUFFIXES, "is not where images are looked for: move it into a class folder"),
            (OTHER_SUFFIXES, f"has another suffix than {known}: convert it"),
        ):
            if found := [file for file in unread if file.suffix.lower() in suffixes]:
                number = f"{len(found)} pictures in {folder} are no samples"
                texts.append(f"{number if len(found) > 1 else 'A picture is no sample'}: {found[0]} {why}.")
    return texts


def need_images(folder: Path) -> list[Path]:
    """The image files of one folder. Raises InputError when it is missing or holds none."""
    need_folders(folder.parent, folder.name)
    if not (images := images_in(folder)):
        deeper = next((child for child in folders_in(folder) if images_in(child)), None)
        hint = f" There are some deeper, in {deeper}: move them up." if deeper else ""
        raise InputError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).{hint}")
    return images


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Files by name without suffix. Raises InputError for two of one stem ("000.png" beside "000.bmp")."""
    found = {}
    for file in files:
        if file.stem in found:
            raise InputError(f"{found[file.stem]} and {file.name} have the same name but for the suffix: remove one.")
        found[file.stem] = file
    return found


def pair_masks(images: list[Path], masks: dict[str, Path], endings: tuple[str, ...], folder: Path) -> list[Path]:
    """The mask of each image, paired by name, never by order.

    masks: by stem; the mask of NAME.jpg is the first of NAME + ending that there is, whatever its suffix.
    folder: where the masks lie, for the message.
    Raises InputError for an image without a mask, for a mask without an image, and for two images (of two splits, or
    "000" and "000_mask") that would share one.
    """
    paired, owner = [], {}
    for image in images:
        names = [image.stem + ending for ending in endings if image.stem + ending in masks]
        if not names:
            expected = folder / f"{image.stem}{endings[0]}.png"
            raise InputError(f"{image} is anomalous but has no mask: expected {expected}.")
        mask = masks[names[0]]
        if mask in owner:
            raise InputError(
                f"{owner[mask]} and {image} would share the mask {mask}: rename one of the images and give it a mask "
                "of its own, or sort the masks into ground_truth/<split>/<defect>."
            )
        owner[mask] = image
        paired.append(mask)
    if unused := sorted(set(masks.values()) - set(paired)):
        where = images[0].parent if images else "this set"
        raise InputError(f"{unused[0]} is a mask without an image in {where}.")
    return paired


def find_categories(
    root: Path,
    category: str | None,
    *,
    is_category: Callable[[Path], bool],
    holds: str,
    name_of: Callable[[str], str] = str,
) -> dict[str, Path]:
    """Category -> folder, of every category folder below root, or of one.

    is_category: whether a folder is one; holds: what such a folder holds, for the message ("train/ and test/").
    name_of: the category's name for a folder's name, where they differ. `category` may be either of the two.
    Raises InputError when there is no such folder, with the level to give instead where it can be seen.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder.")
    found = {}
    for folder in (child for child in folders_in(root) if is_category(child)):
        name = name_of(folder.name)
        if name in found:
            raise InputError(f"{found[name]} and {folder} are both the category {name}: remove one.")
        found[name] = folder
    if category is not None:
        if name_of(category) not in found:
            names = f"found {', '.join(found)}." if found else f"no folder there holds {holds}."
            raise InputError(f"No category {category!r} in {root}: {names}{did_you_mean(category, found)}")
        return {name_of(category): found[name_of(category)]}
    if not found:
        hint = ""
        if is_category(root):
            hint = f" It is a category itself: give its parent, {root.parent}, and category={name_of(root.name)!r}."
        elif deeper := next(
            (folder for child in folders_in(root) for folder in folders_in(child) if is_category(folder)), None
        ):
            hint = f" One level deeper there are some: give {deeper.parent}."
        raise InputError(f"{root} holds no category folder with {holds} inside.{hint}")
    return found


def need_folders(root: Path, *names: str) -> None:
    """Raise InputError unless root holds all these folders, with the level to give instead where it can be seen."""
    missing = [name for name in names if not (root / name).is_dir()]
    if not missing:
        return
    hint = ""
    if root.is_dir():
        for other in (root.parent, *folders_in(root)):
            if all((other / name).is_dir() for name in names):
                hint = f" One level {'higher' if other == root.parent else 'deeper'} they are there: give {other}."
                break
    raise InputError(f"{root} holds no folder {' and no folder '.join(missing)}.{hint}")


def only_category(name: str, category: str | None) -> None:
    """Raise InputError unless `category` is the one category that a set has, or None."""
    if category not in (None, name):
        raise InputError(f"No category {category!r}: this set has the one category {name!r}.")


def content_hash(file: Path) -> bytes:
    """SHA-256 of a file's bytes. Raises InputError when it cannot be read."""
    refuse_pipe(file)
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
