"""How a fit ends that is stopped or fails: status, reason, exit code; and that the same command goes on."""

import json
import signal
from pathlib import Path

import pytest

from runmodel_ext.runs import find_runs
from tests.life.kit import CONFIG, assert_same_end, fit_args, fits, only_run, until
from tests.warm import Warm

FRAGILE = """\
from pathlib import Path
from typing import Any

from runmodel_ext.modules import ClassificationModule


class Fragile(ClassificationModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1 and batch_idx == 4 and not Path("mended").exists():
            raise ValueError("the loss\\nis not finite")
        return super().training_step(batch, batch_idx)
"""


@pytest.mark.parametrize(
    ("signum", "reason", "exit_code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_stopped_fit_is_interrupted_and_goes_on(
    warm: Warm, tmp_path: Path, signum: signal.Signals, reason: str, exit_code: int
) -> None:
    command = warm.start(fit_args(tmp_path), tmp_path / "first")
    until(lambda: find_runs(tmp_path / "results") and len(only_run(tmp_path).metrics()) > 12, "rows", command.is_over)
    seen = only_run(tmp_path).metrics()
    command.kill(signum)
    assert command.wait() == exit_code, command.text
    stopped = only_run(tmp_path)
    assert (stopped.status, stopped.reason) == ("interrupted", reason)
    assert stopped.ended is not None
    assert json.loads((stopped.path / "run.json").read_text())["status"] == "interrupted"
    assert stopped.metrics()[: len(seen)] == seen
    assert "Traceback" not in command.text

    code, text = warm.run(fit_args(tmp_path), tmp_path / "second")
    assert code == 0, text
    run = only_run(tmp_path)
    assert (run.status, run.reason) == ("finished", None)
    assert fits(run) == [("interrupted", reason), ("finished", None)]


def test_a_failed_fit_names_the_error_its_file_and_line_and_goes_on(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    config = CONFIG.replace("runmodel_ext.modules.ClassificationModule", "fragile.Fragile")
    words = fit_args(tmp_path, config=config)
    code, text = warm.run(words, tmp_path / "first", cwd=tmp_path)
    assert code == 1
    assert "ValueError: the loss" in text
    failed = only_run(tmp_path)
    line = 1 + FRAGILE.splitlines().index('            raise ValueError("the loss\\nis not finite")')
    assert failed.status == "failed"
    assert failed.reason == f"ValueError: the loss is not finite (fragile.py:{line})"
    assert [row["step"] for row in failed.metrics() if "train/loss" in row] == list(range(9 + 4))
    assert failed.scores["val/acc"].epoch == 0

    (tmp_path / "mended").touch()
    code, text = warm.run(words, tmp_path / "second", cwd=tmp_path)
    assert code == 0, text
    run = only_run(tmp_path)
    assert [status for status, _ in fits(run)] == ["failed", "finished"]

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mended").touch()
    (tmp_path / "other" / "fragile.py").write_text(FRAGILE)
    code, text = warm.run(fit_args(tmp_path / "other", config=config), tmp_path / "third", cwd=tmp_path / "other")
    assert code == 0, text
    assert_same_end(run, only_run(tmp_path / "other"))


def test_a_fit_that_is_stopped_before_its_first_step_can_be_read(warm: Warm, tmp_path: Path) -> None:
    command = warm.start(fit_args(tmp_path), tmp_path / "log")
    until(lambda: find_runs(tmp_path / "results"), "record", command.is_over)
    command.kill(signal.SIGTERM)
    assert command.wait() in (-signal.SIGTERM, 143)
    assert only_run(tmp_path).status == "interrupted"


def test_a_trainer_that_cannot_be_built_leaves_nothing(warm: Warm, tmp_path: Path) -> None:
    code, text = warm.run(fit_args(tmp_path, "--trainer.devices=nine"), tmp_path / "log")
    assert code != 0
    assert "`devices` selected with `CPUAccelerator` should be an int" in text
    assert not (tmp_path / "results").exists()
