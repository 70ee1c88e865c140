"""The house, from the ground up: a room imports from its own floor and from those below, never from above."""

import ast
from pathlib import Path

import adlib

HOUSE = Path(adlib.__file__).parent

# One line a floor, the lowest first. Rooms on one floor do not know each other.
FLOORS = [
    "errors",
    "files file_hashes figure_style rounding processes hdf5 code_version",
    "samples plugins parameters gpu_memory kept_memory",
    "papers training_set conformance",
    "decoding",
    "metrics images",
    "datasets phantoms synthesis features analysis anomaly_map",
    "memory predictions export",
    "detector figures screening baselines",
    "training findings",
    "networks",
    "models",
    "pretrain runs",
    "own_images",
    "report",
    "studies",
    "reproduce",
    "inspector",
    "cli",
]


def _rooms():
    """{room: files}: a package with all its modules, or a module of the top level."""
    found = {}
    for file in HOUSE.rglob("*.py"):
        room = file.relative_to(HOUSE).parts[0].removesuffix(".py")
        if not room.startswith("__"):
            found.setdefault(room, []).append(file)
    return found


def _imports(file):
    """Every adlib module that a file imports anywhere, also inside functions: "features.weights"."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.removeprefix("adlib.") for name in names if name.startswith("adlib."))


def test_no_room_imports_from_above_or_from_a_neighbour():
    height = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
    rooms = _rooms()
    assert set(height) == set(rooms)
    wrong = [
        f"{file.relative_to(HOUSE)} imports adlib.{name}"
        for room, files in rooms.items()
        for file in files
        for name in _imports(file)
        if (other := name.split(".")[0]) in height and other != room and height[other] >= height[room]
    ]
    assert wrong == []


def _circle(arrows, start):
    """A path of arrows that leads back to its start, or None."""
    paths = [[start]]
    seen = set()
    while paths:
        path = paths.pop()
        for following in arrows.get(path[-1], ()):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return None


def test_no_modules_import_each_other_in_a_circle():
    files = {".".join(file.relative_to(HOUSE).with_suffix("").parts): file for file in HOUSE.rglob("*.py")}
    modules = {name.removesuffix(".__init__") for name in files}

    def target(name):
        """The module that "a.b.c" names: itself, or the one that holds it."""
        return name if name in modules else name.rpartition(".")[0]

    # What a room's front door imports for its visitors is no dependence of the rooms behind it.
    arrows = {
        name: {target(each) for each in _imports(file)} - {name}
        for name, file in files.items()
        if "__init__" not in name
    }
    circles = [circle for name in arrows if (circle := _circle(arrows, name))]
    assert circles == []
