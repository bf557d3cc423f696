"""What the README promises: its commands run, its Python runs, its options are there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.warm import Warm

TOP = Path(__file__).parents[1]
TEXT = (TOP / "README.md").read_text()


def block(name: str) -> list[str]:
    """The lines of the code block behind ``<!-- name -->``."""
    match = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None
    return match.group(1).strip().splitlines()


@pytest.mark.slow
def test_the_tour_runs_as_it_is_written(warm: Warm, tmp_path: Path) -> None:
    shutil.copytree(TOP / "configs", tmp_path / "configs")
    for number, line in enumerate(block("tour")):
        program, *args = shlex.split(line, comments=True)
        assert program == "runmodel"
        code, text = warm.run(args, tmp_path / f"{number}.txt", cwd=tmp_path)
        assert code == 0, f"{line}\n{text}"
    accuracies = [float(value) for value in re.findall(r"test/acc +(0\.\d+)", (tmp_path / "5.txt").read_text())]
    assert accuracies
    assert accuracies[-1] >= 0.97


def test_the_install_commands_name_extras_and_files_that_exist() -> None:
    project = (TOP / "pyproject.toml").read_text()
    for name in ("main job", "tests"):
        (line,) = block(name)
        for extra in re.findall(r"\[(\w+)\]", line):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
        for config in re.findall(r"configs/\S+", line):
            assert (TOP / config).is_file()


def test_every_config_of_the_table_exists_and_every_config_is_in_it() -> None:
    named = set(re.findall(r"^\| `(configs/\S+)` \|", TEXT, re.MULTILINE))
    assert named == {path.relative_to(TOP).as_posix() for path in (TOP / "configs").glob("*.yaml")}


def test_every_extra_of_the_project_is_explained() -> None:
    project = (TOP / "pyproject.toml").read_text()
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    for extra in re.findall(r"^(\w+) = \[", section, re.MULTILINE):
        assert f"`{extra}`" in TEXT, extra


def test_the_options_of_a_run_are_those_of_the_table() -> None:
    from dataclasses import fields

    from runmodel_ext.cli.parser import RunOptions

    named = set(re.findall(r"--run\.(\w+)", TEXT))
    assert named <= {field.name for field in fields(RunOptions)}
    assert {"root", "name", "aliases", "ignore", "tags", "notes", "on_existing"} <= named
