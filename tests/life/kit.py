"""What the tests of a run's life share: a short fit with all kinds of chance in it, and how to compare two."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runmodel_ext.runs import Run, find_runs

PATIENCE = 120.0  # seconds; a bound for what takes one or two, so that a hang becomes a failure
_never = threading.Event()

CONFIG = """\
model:
  class_path: runmodel_ext.modules.ClassificationModule
  init_args:
    num_classes: 10
    lr: 3.0e-3
    network:
      class_path: runmodel_ext.networks.CNN
      init_args: {width: 8, dropout: 0.3}
    lr_scheduler:
      class_path: torch.optim.lr_scheduler.StepLR
      init_args: {step_size: 1, gamma: 0.8}
data:
  class_path: runmodel_ext.data.Digits
  init_args: {batch_size: 128, augment: true}
trainer:
  max_epochs: 4
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
"""


def fit_args(folder: Path, *more: str, config: str = CONFIG) -> list[str]:
    """The words of a fit into ``folder/results``; the same words are the same fit."""
    file = folder / "config.yaml"
    if not file.exists():
        file.write_text(config)
    return ["fit", "--config", str(file), f"--run.root={folder / 'results'}", *more]


def until(found: Callable[[], Any], what: str, ended: Callable[[], Any] = lambda: False) -> Any:
    """Ask again and again until the answer is true; the answer.

    Args:
        found: What is asked.
        what: What is waited for, for the message.
        ended: Whether it can no longer come true.
    """
    for _ in range(int(PATIENCE / 0.001)):
        over = ended()
        if answer := found():
            return answer
        assert not over, f"It ended before {what}."
        _never.wait(0.001)
    raise AssertionError(f"No {what} within {PATIENCE:g} s.")


def only_run(folder: Path) -> Run:
    """The one run below ``folder/results``."""
    (run,) = find_runs(folder / "results")
    return run


def fits(run: Run) -> list[tuple[str, str | None]]:
    """Status and reason of each fit of a run, in order."""
    return [(entry["status"], entry["reason"]) for entry in run.attempts if entry["kind"] == "fit"]


def assert_same_end(run: Run, other: Run) -> None:
    """Two fits ended with the same bits: both checkpoints, the optimizer, the curve and the scores."""
    for which in ("last", "best"):
        assert_same_checkpoint(run, other, which)
    assert run.metrics() == other.metrics()
    assert _scores(run) == _scores(other)
    assert run.progress == other.progress


def assert_same_checkpoint(run: Run, other: Run, which: Any = "last") -> None:
    """Two runs' checkpoints hold the same weights, optimizer, schedulers, progress and random state."""
    import torch  # the tests that only use locks and records need not wait for it

    mine, theirs = run.checkpoint(which), other.checkpoint(which)
    assert mine is not None
    assert theirs is not None
    assert mine.name == theirs.name
    first, second = (torch.load(path, weights_only=True, map_location="cpu") for path in (mine, theirs))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "runmodel_random_state"):
        assert_same(first[key], second[key], f"{mine.name}: {key}")


def assert_same(mine: Any, theirs: Any, where: str) -> None:
    """Two nested values are equal, tensors bit for bit."""
    import torch

    assert type(mine) is type(theirs), where
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), where
        for key in mine:
            assert_same(mine[key], theirs[key], f"{where}/{key}")
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs), where
        for place, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            assert_same(one, other, f"{where}/{place}")
    elif isinstance(mine, torch.Tensor):
        assert torch.equal(mine, theirs), where
    else:
        assert mine == theirs, where


def _scores(run: Run) -> dict[str, Sequence[Any]]:
    return {name: (score.value, score.mode, score.epoch, score.step) for name, score in run.scores.items()}
