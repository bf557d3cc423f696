"""What a test or validation writes into the record of its run."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from runmodel_ext.callbacks import EvaluationRecorder
from runmodel_ext.runs import Run, begin_attempt
from tests.cli.tiny import Tiny, TinyData, fit

QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return fit(tmp_path)


def evaluate(run: Run, kind: str, model: Tiny | None = None, **modes: Any) -> Run:
    recorder = EvaluationRecorder(begin_attempt(run.path, kind, ["by", "hand"]), modes, "checkpoints/last.ckpt")
    trainer = Trainer(callbacks=[recorder], accelerator="cpu", enable_checkpointing=False, **QUIET)
    getattr(trainer, kind)(model or Tiny(), TinyData(), verbose=False)
    return Run.read(run.path)


def test_a_tests_scores_become_the_runs(run: Run) -> None:
    found = evaluate(run, "test", **{"test/loss": "min"})
    score = found.scores["test/loss"]
    assert (score.mode, score.source, score.checkpoint) == ("min", "test-1", "checkpoints/last.ckpt")
    assert (score.epoch, score.step) == (None, None)
    assert found.attempts[-1]["scores"] == {"test/loss": score.value}
    assert found.attempts[-1]["status"] == "finished"


def test_the_newest_test_counts(run: Run) -> None:
    evaluate(run, "test")
    assert evaluate(run, "test").scores["test/loss"].source == "test-2"


def test_the_best_score_of_the_fit_stays(run: Run) -> None:
    found = evaluate(run, "validate")
    assert found.scores["val/loss"] == run.scores["val/loss"]
    assert found.attempts[-1]["scores"]["val/loss"] != run.scores["val/loss"].value


def test_an_evaluation_that_fails_says_so_and_leaves_the_run_as_it_is(run: Run) -> None:
    class Broken(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("no light")

    with pytest.raises(RuntimeError, match="no light"):
        evaluate(run, "test", Broken())
    found = Run.read(run.path)
    assert found.status == "finished"
    assert found.attempts[-1]["status"] == "failed"
    assert "RuntimeError: no light" in found.attempts[-1]["reason"]
    assert "test/loss" not in found.scores


def test_an_evaluation_that_is_stopped_says_so(run: Run) -> None:
    class Stopped(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        evaluate(run, "test", Stopped())
    attempt = Run.read(run.path).attempts[-1]
    assert (attempt["status"], attempt["reason"]) == ("interrupted", "Ctrl-C")
