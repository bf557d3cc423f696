"""The stages of a run in its record: written as training goes, right after a resume, shown by `runmodel runs show`."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from runmodel_ext.cli.commands import show_run
from runmodel_ext.cli.run_cli import RunCLI
from runmodel_ext.runs import Run
from tests.cli.tiny import the_run
from tests.finetuning.yaml_kit import config, in_words, written
from tests.warm import Warm

HERE = "tests.finetuning.test_record"
STAGES = [
    in_words(name="bias", train="layer.1.bias", lr=0.05, until={"epochs": 1}),
    in_words(name="top", train="layer.1", lr=0.02, until={"steps": 4}),
    in_words(name="all", lr={"layer.1": 0.001, "*": 0.01}),
]
PASSED = [
    {
        "stage": "bias",
        "from": {"epoch": 0, "step": 0},
        "to": {"epoch": 1, "step": 3},
        "ended": "1 epoch is over",
        "lr": {"layer.1.bias": 0.05},
    },
    {
        "stage": "top",
        "from": {"epoch": 1, "step": 3},
        "to": {"epoch": 2, "step": 7},
        "ended": "4 steps are over",
        "lr": {"layer.1.weight": 0.02, "layer.1.bias": 0.02},
    },
    {
        "stage": "all",
        "from": {"epoch": 2, "step": 7},
        "to": {"epoch": 4, "step": 12},
        "ended": "the fit ended",
        "lr": {"layer.0": 0.01, "layer.1.weight": 0.001, "layer.1.bias": 0.001},
    },
]


def on(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a stage while it is on."""
    return {**entry, "to": None, "ended": None}


class Dies(Callback):
    """Ends the process after an optimizer step, as the environment says."""

    identity_ignore = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        how, _, step = os.environ.get("DIES", "").partition("@")
        if step == str(trainer.global_step):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"ctrl-c": KeyboardInterrupt, "bug": ZeroDivisionError}[how]


def with_stages(folder: Path) -> Path:
    content = config(STAGES, show_plan=False)
    content["trainer"]["callbacks"].append({"class_path": f"{HERE}.Dies"})
    return written(folder, content)


def test_the_record_holds_the_stages_and_why_each_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunCLI(args=["fit", f"--config={with_stages(tmp_path)}", f"--run.root={tmp_path / 'r'}"])
    assert the_run(tmp_path / "r").record["stages"] == PASSED
    capsys.readouterr()
    show_run("last", str(tmp_path / "r"))
    shown = capsys.readouterr().out
    table = shown[shown.index("Stages of the fine-tuning") :].split("\n\n")[0]
    assert table.splitlines()[1:] == [
        "stage  learning rate  from             to                ended because",
        "bias   0.05           epoch 0, step 0  epoch 1, step 3   1 epoch is over",
        "top    0.02           epoch 1, step 3  epoch 2, step 7   4 steps are over",
        "all    0.001 to 0.01  epoch 2, step 7  epoch 4, step 12  the fit ended",
    ]


@pytest.mark.parametrize(
    ("how", "step", "known"),
    [
        ("kill", 2, [on(PASSED[0])]),
        ("kill", 5, [PASSED[0], on(PASSED[1])]),
        ("kill", 11, [*PASSED[:2], on(PASSED[2])]),
        ("ctrl-c", 8, [*PASSED[:2], on(PASSED[2])]),
        ("bug", 8, [*PASSED[:2], on(PASSED[2])]),
    ],
)
def test_a_run_that_was_stopped_says_which_stage_was_on_and_goes_on_right(
    how: str, step: int, known: list[dict[str, Any]], warm: Warm, tmp_path: Path
) -> None:
    words = ["fit", f"--config={with_stages(tmp_path)}", f"--run.root={tmp_path / 'r'}"]
    died = warm.start(words, tmp_path / "log", env={"DIES": f"{how}@{step}"})
    assert died.wait() != 0
    run = the_run(tmp_path / "r")
    assert run.record["stages"] == known
    assert run.status == ("failed" if how == "bug" else "interrupted")
    code, said = warm.run(words, tmp_path / "log")
    assert code == 0, said
    finished = Run.read(run.path)
    assert finished.status == "finished"
    assert finished.record["stages"] == PASSED


class RemembersLosses(Callback):
    """A callback of the user's own whose `history` is none of stages."""

    history: list[Any] = [{"loss": 1.0}]  # noqa: RUF012


def test_a_history_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    content = config([])
    content["trainer"]["callbacks"] = [{"class_path": f"{HERE}.RemembersLosses"}]
    RunCLI(args=["fit", f"--config={written(tmp_path, content)}", f"--run.root={tmp_path / 'r'}"])
    assert "stages" not in the_run(tmp_path / "r").record
    assert yaml.safe_load(the_run(tmp_path / "r").config_path.read_text())["trainer"]["callbacks"]
