"""The traps of plain LightningCLI 2.6, each shown there first: a test fails when Lightning mends one.

Trap 8, ranks that decide each for itself, needs ranks: ``tests/life``.
"""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from runmodel_ext.cli import RunCLI
from runmodel_ext.errors import ConfigError, NotFoundError
from runmodel_ext.runs import read_metrics
from tests.cli.tiny import DATA, MODEL, QUICK, Tiny, TinyData, fit, run, the_run, weights

CSV = ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain LightningCLI writes into the working directory."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    yield
    # A seed of Lightning's stays in the environment.
    os.environ.clear()
    os.environ.update(environment)


def plain(command: str, *more: str) -> LightningCLI:
    """A command of plain LightningCLI on the tiny model and data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LightningCLI(args=[command, f"--model={MODEL}", f"--data={DATA}", *QUICK, "--seed_everything=0", *more])


def test_loss(cli: LightningCLI) -> float:
    return float(cli.trainer.callback_metrics["test/loss"])


test_loss.__test__ = False  # type: ignore[attr-defined]


# 1. A test with the fit's own configuration evaluates untrained weights.


def test_plain_tests_untrained_weights_with_the_configuration_of_a_fit() -> None:
    trained = plain("fit").model
    untrained = test_loss(plain("test", "--trainer.default_root_dir=elsewhere"))
    tested = plain("test", "--config=config.yaml", "--trainer.default_root_dir=test")
    assert test_loss(tested) == untrained
    assert not torch.equal(tested.model.layer[0].weight, trained.layer[0].weight)


def test_ours_tests_the_best_weights_of_the_configurations_run(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"No finished run of this configuration .* insist with `--untrained`\."):
        run("test", tmp_path)
    found = fit(tmp_path)
    cli = RunCLI(args=["test", f"--config={found.config_path}", f"--run.root={tmp_path}"])
    best = weights(found, "best")
    assert torch.equal(cli.model.layer[0].weight, best["layer.0.weight"])
    assert test_loss(cli) != test_loss(run("test", tmp_path, "--untrained"))


# 2. A logger's directory that is used again loses its metrics.


def test_plain_deletes_the_metrics_of_the_first_run_and_refuses_the_second() -> None:
    place = (*CSV, "--trainer.logger.version=0")
    plain("fit", *place)
    metrics = Path("logs/lightning_logs/version_0/metrics.csv")
    assert metrics.exists()
    with pytest.raises(RuntimeError, match="SaveConfigCallback"):
        plain("fit", *place)
    assert not metrics.exists()


def test_ours_keeps_every_attempts_metrics(tmp_path: Path) -> None:
    found = stopped_and_continued(tmp_path, "--trainer.logger=lightning.pytorch.loggers.CSVLogger")
    args = [word for word in QUICK if "logger" not in word]
    tested = RunCLI(Stopping, TinyData, args=["test", *args, f"--run.root={tmp_path}"]).run
    assert tested is not None
    assert [entry["folder"] for entry in tested.attempts] == ["fit-1", "fit-2", "test-1"]
    for folder in ("fit-1", "fit-2", "test-1"):
        assert read_metrics(found.path / folder / "metrics.csv"), folder
    for folder in ("fit-1", "fit-2"):
        assert read_metrics(found.path / folder / "csv" / "metrics.csv"), folder
    assert len([row for row in found.metrics() if "val/loss" in row]) == 2


class Stopping(Tiny):
    """Stops in the middle, once."""

    stops: bool = True

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1 and Stopping.stops:
            raise ArithmeticError("stopped")


def stopped_and_continued(root: Path, *more: str) -> Any:
    """A run whose first attempt fails in its second epoch; the run after its second attempt."""
    args = ["fit", *(word for word in QUICK if "logger" not in word), f"--run.root={root}", *more]
    Stopping.stops = True
    with pytest.raises(ArithmeticError):
        RunCLI(Stopping, TinyData, args=args)
    Stopping.stops = False
    assert the_run(root).status == "failed"
    found = RunCLI(Stopping, TinyData, args=args).run
    assert found is not None
    return found


# 3. SLURM: a requeued job dies, and another job's checkpoint is taken for one's own.


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of one task, as Lightning detects it."""
    variables = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**variables, "NODELIST": "localhost", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.mark.usefixtures("slurm")
def test_plain_refuses_a_requeued_job() -> None:
    plain("fit")
    with pytest.raises(RuntimeError, match=r"SaveConfigCallback expected .* to NOT exist"):
        plain("fit")


@pytest.mark.usefixtures("slurm")
def test_plain_goes_on_from_another_jobs_checkpoint() -> None:
    plain("fit").trainer.save_checkpoint("hpc_ckpt_1.ckpt")
    Path("config.yaml").unlink()
    other = plain("fit", "--model.lr=0.01", "--trainer.max_epochs=3")
    assert steps_done(other) == 3  # one epoch of three: two were the other job's


@pytest.mark.usefixtures("slurm")
def test_ours_goes_on_with_the_jobs_own_run_alone(tmp_path: Path) -> None:
    root = tmp_path / "results"
    stopped_and_continued(root)
    assert the_run(root).status == "finished"
    plain("fit").trainer.save_checkpoint("hpc_ckpt_1.ckpt")
    other = run("fit", root, "--model.lr=0.01", "--trainer.max_epochs=3")
    assert steps_done(other) == 9


@pytest.mark.usefixtures("slurm")
def test_ours_goes_on_from_what_the_scheduler_saved_of_the_run(tmp_path: Path) -> None:
    args = ["fit", *QUICK, f"--run.root={tmp_path}"]
    Stopping.stops = True
    with pytest.raises(ArithmeticError):
        RunCLI(Stopping, TinyData, args=args)
    Stopping.stops = False
    stopped = the_run(tmp_path)
    last = stopped.checkpoint("last")
    assert last is not None
    saved = torch.load(last, weights_only=True)
    saved["state_dict"]["layer.0.weight"].fill_(0.0)
    torch.save(saved, stopped.path / "hpc_ckpt_1.ckpt")
    seen: list[float] = []

    class Watching(Stopping):
        def on_train_start(self) -> None:
            seen.append(float(self.layer[0].weight.detach().abs().sum()))

    Watching.__name__ = Watching.__qualname__ = "Stopping"
    RunCLI(Watching, TinyData, args=args)
    assert seen == [0.0]
    assert the_run(tmp_path).status == "finished"


def steps_done(cli: LightningCLI) -> int:
    """How many steps the model saw in this process, which a checkpoint cannot know."""
    return int(cli.model.steps_seen)


@pytest.fixture(autouse=True)
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Tiny.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.steps_seen = getattr(self, "steps_seen", 0) + 1
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Tiny, "training_step", training_step)


# 4. A checkpoint's settings override the arguments.


def test_plain_trains_with_the_checkpoints_learning_rate() -> None:
    plain("fit", "--model.lr=0.1").trainer.save_checkpoint("a.ckpt")
    Path("config.yaml").unlink()
    cli = plain("fit", "--ckpt_path=a.ckpt", "--model.lr=0.5", "--trainer.max_epochs=3")
    assert cli.model.lr == 0.1


def test_ours_trains_with_the_arguments_and_says_where_the_checkpoint_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = fit(tmp_path, "--model.lr=0.1").checkpoint("last")
    cli = run("fit", tmp_path, f"--ckpt_path={last}", "--model.lr=0.5", "--trainer.max_epochs=3")
    assert cli.model.lr == 0.5
    assert "the arguments count: model.lr=0.5 (there 0.1)." in capsys.readouterr().err


# 5. One batch or all of them.

LIMITS = [name for name in signature(Trainer).parameters if name.startswith("limit_") and name.endswith("_batches")]


PARSES = """
import importlib, typing
import lightning.pytorch
from lightning.pytorch.trainer import trainer as module
for number in range(200):
    typing.Optional[type(f"Other{number}", (), {})]  # `typing` remembers the last 128
typing.Optional[typing.Union[float, int]]
lightning.pytorch.Trainer = importlib.reload(module).Trainer
from lightning.pytorch.cli import LightningArgumentParser
from runmodel_ext.cli.parser import RunParser
for parser in (LightningArgumentParser(), RunParser()):
    parser.add_lightning_class_args(module.Trainer, "trainer")
    parsed = parser.parse_args(["--trainer.limit_train_batches=1"])
    print(type(parsed.trainer.limit_train_batches).__name__)
"""


def test_plain_takes_one_batch_for_all_of_them_by_what_was_imported_and_ours_does_not() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", PARSES]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float", "int"]  # 1.0 is all batches, 1 is one


def test_ours_takes_one_batch_for_one(tmp_path: Path) -> None:
    assert steps_done(run("fit", tmp_path, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")) == 1
    assert steps_done(run("fit", tmp_path, "--trainer.limit_train_batches=1.0", "--trainer.max_epochs=1")) == 3


@pytest.mark.parametrize("name", [*LIMITS, "val_check_interval", "overfit_batches"])
def test_ours_keeps_whole_numbers_and_fractions_apart(name: str, tmp_path: Path) -> None:
    def parsed(text: str) -> Any:
        words = [f"--model={MODEL}", f"--data={DATA}", f"--run.root={tmp_path}", "--trainer.fast_dev_run=true"]
        cli = RunCLI(args=["validate", *words, "--run.untrained=true", *QUICK, f"--trainer.{name}={text}"])
        return cli.config["validate"]["trainer"][name]

    assert [(value, type(value)) for value in map(parsed, ("1", "1.0"))] == [(1, int), (1.0, float)]


# 6. The second run is refused.


def test_plain_refuses_the_same_command_a_second_time() -> None:
    plain("fit")
    with pytest.raises(RuntimeError, match=r"SaveConfigCallback expected .* to NOT exist"):
        plain("fit")


def test_ours_has_the_same_command_done_the_second_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(tmp_path)
    record = (first.path / "run.json").read_bytes()
    again = fit(tmp_path)
    assert again.path == first.path
    assert (first.path / "run.json").read_bytes() == record
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("finished already")
    assert last.endswith(f": {first.path}")


# 7. A configuration of one command is refused by another.


def print_config(cls: type[LightningCLI], command: str) -> str:
    printed = io.StringIO()
    args = [command, f"--model={MODEL}", f"--data={DATA}", "--print_config"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls(args=args)
    return printed.getvalue()


def test_plain_refuses_the_configuration_of_a_test_for_a_fit(capsys: pytest.CaptureFixture[str]) -> None:
    Path("test.yaml").write_text(print_config(LightningCLI, "test"))
    with pytest.raises(SystemExit):
        plain("fit", "--config=test.yaml")
    assert "does not accept option 'verbose'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_ours_takes_the_configuration_of_any_command_for_any_other(command: str, tmp_path: Path) -> None:
    Path("other.yaml").write_text(print_config(RunCLI, command))
    found = RunCLI(args=["fit", "--config=other.yaml", *QUICK, f"--run.root={tmp_path}"]).run
    assert found is not None
    assert found.digest == fit(tmp_path).digest
    for name in ("validate", "test"):
        RunCLI(args=[name, "--config=other.yaml", *QUICK, f"--run.root={tmp_path}"])


def test_ours_still_refuses_a_key_that_no_command_knows() -> None:
    Path("other.yaml").write_text("verbosse: true\n")
    with pytest.raises(ConfigError, match=r"There is no key `verbosse`\. Did you mean 'verbose'\?"):
        RunCLI(args=["fit", f"--model={MODEL}", "--config=other.yaml"])
