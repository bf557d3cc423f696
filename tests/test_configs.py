"""Every file of `configs/` says how to run it, and runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from runmodel_ext.runs import find_runs
from tests.warm import Warm

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
FEW = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]


def commands(config: Path) -> list[list[str]]:
    """The commands that the head of a config tells to type."""
    head = [line for line in config.read_text().splitlines() if line.startswith("#")]
    found = [re.fullmatch(r"#   (?P<command>runmodel .*)", line) for line in head]
    return [shlex.split(match["command"]) for match in found if match]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_a_config_opens_with_what_it_does_and_how_to_run_it(config: Path) -> None:
    first = config.read_text().splitlines()[0]
    assert re.match(r"# \w.*[.:]", first)
    told = commands(config)
    assert told, f"{config.name} does not say how to run it"
    assert told[0][:2] == ["runmodel", "fit"]
    for command in told:
        assert f"configs/{config.name}" in command


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_commands_of_a_config_run(config: Path, warm: Warm, tmp_path: Path) -> None:
    for command in commands(config):
        words = [*command[1:], *FEW, f"--run.root={tmp_path / 'r'}"]
        code, printed = warm.run(words, tmp_path / "log", cwd=ROOT)
        assert code == 0, printed
    (run,) = find_runs(tmp_path / "r")
    assert run.status == "finished"
    assert run.monitor in run.scores
    kinds = [entry["kind"] for entry in run.attempts]
    assert kinds == [command[1] for command in commands(config) if command[1] != "plan"]  # which leaves nothing
    again, printed = warm.run(["test", f"--run={run.path}"], tmp_path / "log", cwd=ROOT)
    assert again == 0, printed


def test_there_are_the_configs_that_others_build_on() -> None:
    wanted = {"digits.yaml", "digits_mlp.yaml", "digits_staged.yaml", "own_module.yaml"}
    assert wanted <= {config.name for config in CONFIGS}
    for config in CONFIGS:
        assert {"model", "data"} <= yaml.safe_load(config.read_text()).keys()
