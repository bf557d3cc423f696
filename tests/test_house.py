"""The plan of the house, held by tests: floors, faces, two wings, and what lies on the doorstep."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "runmodel_ext"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    "errors _version _private",
    "_files _tables",
    "networks data",
    "finetuning modules runs",
    "registry",
    "callbacks evaluation",
    "cli",
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# These two stand outside: the lazy top of the package, and `python -m`.
DOORSTEP = {"__init__", "__main__"}

RECORDS_ROOMS = {"errors", "_files", "_tables", "_version", "runs", "registry"}
RECORDS_DOOR = {"__init__", "main", "commands", "sections", "completion"}
HEAVY = {"torch", "lightning", "pytorch_lightning", "torchmetrics", "numpy", "pandas", "jsonargparse"}
ON_TOP = {
    "runmodel_ext",
    "configs",
    "tests",
    "examples",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
}


class Import(NamedTuple):
    module: str
    at_start: bool  # whether it runs when the file is imported


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path) -> list[Import]:
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), at_start=True))


def _imports(node: ast.AST, at_start: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            yield from (Import(alias.name, at_start) for alias in names)
        case ast.ImportFrom(module=module, level=level):
            yield Import("." * level + (module or ""), at_start)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.FunctionDef() | ast.AsyncFunctionDef():
            at_start = False
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, at_start)


def own_imports_of(path: Path) -> list[tuple[list[str], Import]]:
    """What the file imports of this package, with the parts of the name below ``runmodel_ext``."""
    found = [(entry.module.split("."), entry) for entry in imports_of(path)]
    return [(parts[1:], entry) for parts, entry in found if parts[0] == "runmodel_ext"]


def is_records_wing(path: Path) -> bool:
    room = room_of(path)
    return room in RECORDS_ROOMS | DOORSTEP or (room == "cli" and path.stem in RECORDS_DOOR)


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=named)


@EVERY_FILE
def test_every_file_stands_on_a_floor(path: Path) -> None:
    assert room_of(path) in FLOOR.keys() | DOORSTEP


@EVERY_FILE
def test_arrows_only_go_down(path: Path) -> None:
    room = room_of(path)
    if room in DOORSTEP:
        return
    for parts, entry in own_imports_of(path):
        assert parts, f"{named(path)} must import from a room, not from the top of the package"
        target = parts[0]
        assert target == room or FLOOR[target] < FLOOR[room], f"{room} must not import {target} ({entry.module})"


@EVERY_FILE
def test_nobody_imports_the_command_line_but_the_doorstep(path: Path) -> None:
    if room_of(path) not in {"cli"} | DOORSTEP:
        assert not [entry.module for parts, entry in own_imports_of(path) if parts[:1] == ["cli"]]


@EVERY_FILE
def test_other_rooms_are_entered_by_their_face(path: Path) -> None:
    inside = [entry.module for parts, entry in own_imports_of(path) if len(parts) > 1 and parts[0] != room_of(path)]
    allowed = ["runmodel_ext.cli.main"] if named(path) == "__main__.py" else []
    assert inside == allowed, f"{named(path)} must import from the folder, not from a file in it"


@EVERY_FILE
def test_imports_are_absolute(path: Path) -> None:
    assert not [entry.module for entry in imports_of(path) if entry.module.startswith(".")]


@pytest.mark.parametrize("path", [path for path in FILES if is_records_wing(path)], ids=named)
def test_the_records_wing_imports_nothing_heavy(path: Path) -> None:
    at_start = [entry.module for entry in imports_of(path) if entry.at_start]
    assert not [module for module in at_start if module.split(".")[0] in HEAVY]
    for parts, entry in own_imports_of(path):
        if entry.at_start and parts:
            training = parts[0] not in RECORDS_ROOMS and not (parts[0] == "cli" and set(parts[1:]) <= RECORDS_DOOR)
            assert not training, f"{named(path)} must not import {entry.module} when it is imported"


@pytest.mark.parametrize(
    "code",
    [
        "import runmodel_ext",
        "import runmodel_ext.cli",
        "import runmodel_ext.runs as runs; [getattr(runs, name) for name in runs.__all__]",
        *(
            f"from runmodel_ext.cli.main import main; main({words})"
            for words in [
                ["--help"],
                ["--version"],
                ["runs", "list"],
                ["runs", "list", "--where", "lr<1", "--format", "json"],
                ["runs", "show", "last"],
                ["fti"],
            ]
        ),
    ],
)
def test_nothing_heavy_is_loaded_without_need(code: str, tmp_path: Path) -> None:
    program = f"import atexit, sys\natexit.register(lambda: print('loaded:', {HEAVY} & sys.modules.keys()))\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("loaded: set()\n")


def test_only_what_belongs_there_lies_on_top_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert not {name for name in top if not name.startswith(".")} - ON_TOP
