"""What a stranger broke on the first day, and what is said to him now."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from runmodel_ext.cli import RunCLI
from runmodel_ext.errors import ConfigError
from runmodel_ext.runs import Run, find_runs, read_metrics
from tests.cli.tiny import Tiny, TinyData

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


def fit(root: Path, *words: str, model: type[LightningModule] = Tiny, command: str = "fit") -> Run:
    """Run a command on the tiny model."""
    cli = RunCLI(model, TinyData, args=[command, f"--run.root={root}", "--trainer.max_epochs=2", *QUIET, *words])
    assert cli.run is not None
    return cli.run


class NoScoreOfThatName(Tiny):
    """Watches a score that nobody logs."""

    monitor = "val/nope"


class NeverANumber(Tiny):
    """Logs a score that is no number."""

    def validation_step(self, batch: object, batch_idx: int) -> None:
        self.log("val/loss", float("nan"))


def test_a_finished_run_without_its_checkpoints_says_how_to_train_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path)
    shutil.rmtree(run.path / "checkpoints")
    fit(tmp_path)
    assert "The checkpoints of" in (told := capsys.readouterr().err)
    assert "`--run.on_existing overwrite` trains it again" in told
    with pytest.raises(ValueError, match=r"has no checkpoint to test.*--run\.on_existing overwrite"):
        fit(tmp_path, command="test")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("--trainer.max_epochs=-5", "max_epochs.*must be a non-negative integer or -1.*-5"),
        ("--seed_everything=-1", "`seed_everything` must be from 0 to 4294967295, but is -1"),
        ("--run.root=", "`run.root` is empty"),
    ],
)
def test_values_out_of_range_are_refused_in_a_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fit(tmp_path / "root", word)
    assert not (tmp_path / "root").exists()


def test_a_monitor_that_nobody_logs_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val/nope.*could not find the monitored key.*val/loss"):
        fit(tmp_path, model=NoScoreOfThatName)
    assert [run.status for run in find_runs(tmp_path)] == ["failed"]


def test_a_score_that_is_no_number_is_called_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, model=NeverANumber)
    assert "no number in any epoch: no checkpoint is the best" in capsys.readouterr().out


def test_a_monitor_without_validation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, "--trainer.limit_val_batches=0")
    assert "There is no validation, so 'val/loss' chooses no best checkpoint" in capsys.readouterr().err


def test_an_epoch_shorter_than_the_logging_interval_leaves_its_training_scores(tmp_path: Path) -> None:
    run = fit(tmp_path, "--trainer.log_every_n_steps=50")
    rows = [row for row in read_metrics(run.path / "fit-1" / "metrics.csv") if "train/loss" in row]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert (
        rows[-1]["train/loss"] == pytest.approx(run.scores["train/loss"].value) or run.scores["train/loss"].epoch == 0
    )


def test_what_is_logged_anyway_is_not_written_twice(tmp_path: Path) -> None:
    run = fit(tmp_path, "--trainer.log_every_n_steps=1")
    rows = [row for row in run.metrics() if "train/loss" in row]
    assert len(rows) == len({row["step"] for row in rows}) == run.progress["step"]


def test_a_run_that_is_found_under_another_name_leaves_no_empty_directory_of_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path, "--run.name=fixed")
    again = fit(tmp_path, "--run.name=other/{model.lr}")
    assert again.path == run.path
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"fixed"}
    assert "This configuration has a run already, under the name 'fixed/v1'" in capsys.readouterr().err
