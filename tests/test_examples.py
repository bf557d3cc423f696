"""Every script of `examples/` runs."""

import runpy
import sys
from pathlib import Path

import pytest

from runmodel_ext.runs import find_runs

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: What a script needs to be told; all others run as they are.
ARGUMENTS = {
    "own_script.py": ["fit", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"],
    "staged_finetuning.py": ["--quick"],
}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
@pytest.mark.filterwarnings("ignore:.*logging interval", "ignore:.*have no `validation_step`")
def test_an_example_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), *ARGUMENTS.get(script.name, [])])
    runpy.run_path(str(script), run_name="__main__")
    assert all(entry.name == "results" for entry in tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*logging interval", "ignore:.*have no `validation_step`")
def test_a_script_of_ones_own_fits_and_tests_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "examples/own_script.py"
    monkeypatch.chdir(tmp_path)
    for command in ("fit", "test"):
        monkeypatch.setattr(sys, "argv", [str(script), command, *ARGUMENTS["own_script.py"][1:]])
        runpy.run_path(str(script), run_name="__main__")
    (run,) = find_runs("results")
    assert [entry["kind"] for entry in run.attempts] == ["fit", "test"]
    assert {"train/loss", "test/loss"} <= run.scores.keys()


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
def test_an_example_says_what_it_shows_and_how_to_run_it(script: Path) -> None:
    text = script.read_text()
    assert text.startswith('"""')
    head = text.split('"""')[1]
    assert f"python examples/{script.name}" in head or "configs/" in head
