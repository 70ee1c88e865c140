"""Which adlib runs here: its version, the commit it stands at, and whether its files are those of that commit."""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import adlib

REPOSITORY = Path(adlib.__file__).resolve().parents[1]
UNTRACKED = ("adlib/*.py", "adlib/*.yaml", "adlib/*.csv")  # what adlib takes for its own wherever it lies in these


def code() -> dict:
    """adlib's version, and the commit it stands at; `dirty` when files differ from that commit, and then `changes`, by
    which two such states of the folder adlib are told apart: 12 hexadecimal digits.

    `unknown` says, where git does not answer, what is not known and why: commit is then what .git says by itself, or
    "", and dirty is None. What counts is the code as it was imported: git is asked once per process, the first time,
    so ask when work begins. A module imported since is of that commit unless its file was changed while this process
    ran; then `dirty` is true.
    """
    facts, files = _asked()
    return facts | ({"dirty": True} if any(map(_changed, _imported() - files)) else {})


@cache
def _asked() -> tuple[dict, set[str]]:
    """What git says, and the files of the modules that were imported by then."""
    facts, files = {"version": adlib.__version__, "commit": "", "dirty": None}, _imported()
    if not (REPOSITORY / ".git").exists():  # else git would answer for a repository that happens to lie around it
        facts["unknown"] = f"commit and changes: {REPOSITORY} is no clone"
    else:
        try:
            facts["commit"] = _git("rev-parse", "--short=12", "HEAD")
            new = _untracked()
            facts["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no") or new)
            if facts["dirty"]:
                facts["changes"] = _changes(new)
        except OSError as error:
            facts["commit"] = facts["commit"] or _head()
            missing = "changes" if facts["commit"] else "commit and changes"
            facts["unknown"] = f"{missing}: {error.strerror or error}"
    if any(map(_changed, files)):  # git has seen what they are now
        facts["dirty"] = True
    return facts, files


def _imported() -> set[str]:
    """The files of adlib's modules that are imported so far."""
    named = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "adlib"]
    return {module.__file__ for module in named if getattr(module, "__file__", None)}


def _changed(file: str) -> bool:
    """Whether a file was changed, or is gone, since this process imported adlib."""
    try:
        about = Path(file).stat()
    except OSError:
        return True
    return max(about.st_mtime_ns, about.st_ctime_ns) > adlib.IMPORTED_AT


def _untracked() -> list[str]:
    """Files that git does not know, be they ignored, and that are part of adlib: a new method is one such file."""
    found = _git("ls-files", "-z", "--others", "--", *UNTRACKED).split("\0")
    return [file for file in found if file and "/." not in file]  # what editors keep in hidden folders is not


def _changes(new: list[str]) -> str:
    """A hash of how the folder adlib differs from its commit. new: files that git does not know."""
    found = hashlib.sha256(_git("diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", "--", "adlib").encode())
    for file in new:
        found.update(f"\0{file}\0".encode(errors="surrogateescape") + (REPOSITORY / file).read_bytes())
    return found.hexdigest()[:12]


def _git(*arguments: str) -> str:
    """What git answers about the clone, also where it belongs to another user: its code runs here anyway."""
    trusted = ["-c", f"safe.directory={REPOSITORY}", "-c", "core.fsmonitor=false"]
    command = ["git", *trusted, "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise OSError("there is no git here") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
        raise OSError(f"git refuses ({said[:200]})")
    return done.stdout.strip()


def _head() -> str:
    """The commit that .git/HEAD names, read without git; "" where it cannot be read."""
    try:
        folder = REPOSITORY / ".git"
        if folder.is_file():  # a work tree: its folder lies in the clone's
            folder = REPOSITORY / folder.read_text().partition("gitdir:")[2].strip()
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head[:12]
        common = folder / "commondir"
        shared = folder / common.read_text().strip() if common.is_file() else folder
        name = head.partition("ref:")[2].strip()
        for place in (folder, shared):
            if (place / name).is_file():
                return (place / name).read_text().strip()[:12]
        packed = (shared / "packed-refs").read_text().splitlines()
    except (OSError, ValueError):
        return ""
    return next((line.split()[0][:12] for line in packed if line.endswith(f" {name}")), "")


def packages_text(code: dict) -> str:
    """Which other packages had a part, as adlib.plugins.package_code says: "lab 1.0 (0123456789ab)"; "" for none."""
    return ", ".join(f"{name} ({digits})" for name, digits in code.get("packages", {}).items())


def code_text(code: dict) -> str:
    """What `code` found, for people: "0.1.0 at 0123456789ab with uncommitted changes"; says what is not known, and
    which other packages gave method or data set.
    """
    text = code.get("version") or "of an unknown version"
    if code.get("commit"):
        text += f" at {code['commit']}"
    if code.get("dirty"):
        text += " with uncommitted changes" + (f" ({code['changes']})" if code.get("changes") else "")
    if code.get("dirty") is None or not code.get("commit"):
        text += f" (unknown: {code.get('unknown') or 'commit or changes'})"
    packages = packages_text(code)
    return f"{text}, with {packages}" if packages else text
