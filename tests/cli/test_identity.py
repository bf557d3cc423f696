"""I1: the same configuration is the same run, however it is written; another one is another."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor
from torch import nn

from runmodel_ext.cli.run_cli import RunCLI
from runmodel_ext.cli.trainer_commands import main
from runmodel_ext.errors import ConfigError
from tests.cli.tiny import DATA, MODEL, Tiny, TinyData

ROOT = Path(__file__).parents[2]
Digest = Callable[..., str]
known: dict[tuple[str, tuple[str, ...]], str] = {}

BASE = """\
model:
  class_path: runmodel_ext.modules.ClassificationModule
  init_args:
    num_classes: 10
    lr: 0.1
    network:
      class_path: runmodel_ext.networks.CNN
      init_args:
        width: 8
data:
  class_path: runmodel_ext.data.Digits
trainer:
  max_epochs: 3
"""


@pytest.fixture
def digest(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Digest:
    """The digest that `runmodel explain` gives of a configuration and more arguments."""
    monkeypatch.chdir(tmp_path)

    def explained(text: str = BASE, *more: str) -> str:
        if (text, more) in known:
            return known[text, more]
        Path("config.yaml").write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["explain", *(["--config=config.yaml"] if text else []), *more])
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        return next(line.split()[1] for line in printed.out.splitlines() if line.startswith("digest "))

    if (BASE, ()) not in known:
        known[BASE, ()] = explained(BASE)
    return explained


def with_init_args(**values: object) -> str:
    config = yaml.safe_load(BASE)
    config["model"]["init_args"].update(values)
    return yaml.safe_dump(config)


def test_the_order_of_keys_makes_no_difference(digest: Digest) -> None:
    def reversed_(value: object) -> object:
        if isinstance(value, dict):
            return {key: reversed_(item) for key, item in reversed(value.items())}
        return value

    backwards = yaml.safe_dump(reversed_(yaml.safe_load(BASE)), sort_keys=False)
    assert backwards.index("trainer") < backwards.index("model")
    assert digest(backwards) == digest()


@pytest.mark.parametrize("number", ["1e-1", "0.10", "1.0e-1", ".1", "'0.1'"])
def test_the_spelling_of_a_number_makes_no_difference(digest: Digest, number: str) -> None:
    assert digest(BASE.replace("lr: 0.1", f"lr: {number}")) == digest()


def test_a_whole_number_for_a_fraction_is_that_fraction(digest: Digest) -> None:
    assert digest(BASE, "--model.lr=1") == digest(BASE, "--model.lr=1.0")


def test_defaults_make_no_difference_written_out_or_not(digest: Digest) -> None:
    written = yaml.safe_load(with_init_args(task="multiclass", lr_scheduler=None, train_metrics=False))
    written["trainer"].update(accumulate_grad_batches=1, gradient_clip_val=None, callbacks=[])
    written["data"]["init_args"] = {"batch_size": 64, "augment": False}
    written["model"]["init_args"]["network"]["init_args"]["in_channels"] = 1
    assert digest(yaml.safe_dump(written)) == digest()


@pytest.mark.parametrize(
    "path",
    [
        "runmodel_ext.ClassificationModule",
        "runmodel_ext.modules.classification.ClassificationModule",
        "ClassificationModule",
    ],
)
def test_every_path_to_a_class_is_the_same_class(digest: Digest, path: str) -> None:
    assert digest(BASE.replace("runmodel_ext.modules.ClassificationModule", path)) == digest()


def test_bare_names_of_network_and_data_are_the_same_classes(digest: Digest) -> None:
    short = BASE.replace("runmodel_ext.networks.CNN", "CNN").replace("runmodel_ext.data.Digits", "Digits")
    assert digest(short) == digest()


def test_a_configuration_in_two_files_is_the_same(digest: Digest) -> None:
    config = yaml.safe_load(BASE)
    Path("model.yaml").write_text(yaml.safe_dump({"model": config["model"]}))
    rest = yaml.safe_dump({key: value for key, value in config.items() if key != "model"})
    assert digest(rest, "--config=model.yaml") == digest()


def test_a_later_file_counts_over_an_earlier_one(digest: Digest) -> None:
    Path("more.yaml").write_text("trainer: {max_epochs: 4}\n")
    longer = digest(BASE.replace("max_epochs: 3", "max_epochs: 4"))
    assert digest(BASE, "--config=more.yaml") == longer != digest()


def test_options_without_a_file_are_the_same(digest: Digest) -> None:
    options = [
        "--model=ClassificationModule",
        "--model.num_classes=10",
        "--model.lr=0.1",
        "--model.network=CNN",
        "--model.network.width=8",
        "--data=Digits",
        "--trainer.max_epochs=3",
    ]
    assert digest("", *options) == digest()


def test_environment_variables_are_the_same(digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNMODEL_FIT__TRAINER__MAX_EPOCHS", "4")
    from_environment = digest(BASE.replace("trainer:\n  max_epochs: 3\n", ""))
    monkeypatch.delenv("RUNMODEL_FIT__TRAINER__MAX_EPOCHS")
    assert from_environment == digest(BASE, "--trainer.max_epochs=4") != digest()


DIFFERENT = [
    ["--model.lr=0.2"],
    ["--model.network.width=9"],
    ["--model.network=MLP", "--model.network.in_features=64", "--model.network.out_features=10"],
    ["--data.batch_size=32"],
    ["--data.augment=true"],
    ["--trainer.max_epochs=4"],
    ["--trainer.max_steps=10"],
    ["--trainer.precision=bf16-mixed"],
    ["--trainer.accumulate_grad_batches=2"],
    ["--trainer.gradient_clip_val=1.0"],
    ["--trainer.limit_train_batches=2"],
    ["--trainer.deterministic=true"],
    ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
    ["--trainer.callbacks=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={2: 4}"],
    ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
    ["--optimizer=SGD", "--optimizer.lr=0.1"],
    ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=3"],
]


def test_what_changes_the_result_changes_the_digest(digest: Digest) -> None:
    digests = {digest(BASE, *words): words for words in [[], *DIFFERENT]}
    assert list(digests.values()) == [[], *DIFFERENT]


def test_one_batch_and_all_batches_are_two_configurations(digest: Digest) -> None:
    one, every = "--trainer.limit_train_batches=1", "--trainer.limit_train_batches=1.0"
    assert digest(BASE, one) != digest(BASE, every) == digest()


def test_two_early_stoppings_differ_by_their_arguments(digest: Digest) -> None:
    early = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    assert digest(BASE, *early, "--trainer.callbacks.patience=7") != digest(BASE, *early)
    assert digest(BASE, *early, "--trainer.callbacks.patience=3") == digest(BASE, *early)


def words_of(*callbacks: str) -> list[str]:
    return [word if word.startswith("--") else f"--trainer.callbacks+={word}" for word in callbacks]


SAME = [
    ["--trainer.devices=1", "--trainer.accelerator=cpu", "--trainer.num_nodes=1", "--trainer.strategy=ddp"],
    ["--trainer.logger=false", "--trainer.log_every_n_steps=3", "--trainer.default_root_dir=elsewhere"],
    ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=elsewhere"],
    ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"],
    ["--trainer.enable_checkpointing=false", "--trainer.num_sanity_val_steps=0", "--trainer.fast_dev_run=true"],
    ["--trainer.limit_test_batches=2", "--trainer.limit_predict_batches=0.5", "--data.num_workers=2"],
    ["--run.root=elsewhere", "--run.tags=[a, b]", "--run.notes=a thought", "--run.on_existing=new"],
    words_of("ModelCheckpoint", "--trainer.callbacks.save_top_k=3", "tests.cli.test_identity.Watcher"),
    words_of("LearningRateMonitor", "RichProgressBar", "TQDMProgressBar", "RichModelSummary"),
]


@pytest.mark.parametrize("words", SAME, ids=lambda words: words[0].lstrip("-"))
def test_what_does_not_change_the_result_does_not_change_the_digest(digest: Digest, words: list[str]) -> None:
    assert digest(BASE, *words) == digest()


class Watcher(Callback):
    """One that says itself that it changes no result."""

    identity_ignore = True


class Trains(Callback):
    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength


def test_a_callback_of_the_users_own_counts_unless_it_says_otherwise(digest: Digest) -> None:
    own = words_of("tests.cli.test_identity.Trains")
    assert digest(BASE, *own) != digest()
    assert digest(BASE, *own, *words_of("tests.cli.test_identity.Watcher")) == digest(BASE, *own)


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("model.network.width", "--model.network.width=9"),
        ("model.net*", "--model.network.width=9"),
        ("trainer.max_epochs", "--trainer.max_epochs=9"),
        ("trainer.*", "--trainer.max_epochs=9"),
        ("*.lr", "--model.lr=0.3"),
    ],
)
def test_ignored_keys_change_no_digest(digest: Digest, pattern: str, word: str) -> None:
    ignore = f"--run.ignore=['{pattern}']"
    assert digest(BASE, ignore, word) == digest(BASE, ignore) != digest()


def test_an_ignored_callback_changes_no_digest(digest: Digest) -> None:
    ignored = "--run.ignore=['trainer.callbacks.*']"
    assert digest(BASE, ignored, *words_of("tests.cli.test_identity.Trains")) == digest()


def test_an_ignored_key_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`run.ignore` names 'model.with'.* Did you mean 'model.width'"):
        RunCLI(args=["fit", f"--model={MODEL}", f"--data={DATA}", "--run.ignore=[model.with]"])


def test_a_class_says_itself_what_does_not_count(digest: Digest) -> None:
    mine = ["--model", MODEL, "--data", DATA]
    assert digest("", *mine, "--data.num_workers=2") == digest("", *mine)
    assert digest("", *mine, "--data.batch_size=2") != digest("", *mine)


def test_the_seed_is_not_in_the_digest(digest: Digest) -> None:
    assert digest(BASE, "--seed_everything=7") == digest(BASE, "--seed_everything=false") == digest()


def explained_by_a_process(words: list[str], cwd: Path, **environment: str) -> str:
    searched = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": searched, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("digest "))


def test_sets_do_not_depend_on_the_hash_seed(digest: Digest, tmp_path: Path) -> None:
    options = ["--model", MODEL, "--data", DATA, "--model.words=[red, green, blue, yellow, black]"]
    command = [sys.executable, "-m", "runmodel_ext", "explain", *options]
    here = digest("", *options)
    assert digest("", *options[:-1], "--model.words=[black, blue, green, yellow, red]") == here
    assert explained_by_a_process(command, tmp_path, PYTHONHASHSEED="1") == here


def test_classes_given_in_a_script_are_the_same_as_by_path(digest: Digest, capsys: pytest.CaptureFixture[str]) -> None:
    by_path = digest("", "--model", MODEL, "--data", DATA, "--model.lr=0.3")
    with pytest.raises(SystemExit):
        RunCLI(Tiny, TinyData, args=["explain", "--model.lr=0.3"])
    assert f"digest     {by_path}" in capsys.readouterr().out


SCRIPT = """\
from runmodel_ext.cli import RunCLI
from tests.cli import tiny

class Model(tiny.Tiny):
    pass

class Points(tiny.TinyData):
    pass

if __name__ == "__main__":
    RunCLI(Model, Points)
"""


def test_classes_of_the_script_itself_are_the_same_as_by_path(
    digest: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_train.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    by_path = digest("", "--model=own_train.Model", "--data=own_train.Points", "--model.lr=0.3")
    words = [sys.executable, "own_train.py", "explain", "--model.lr=0.3"]
    assert explained_by_a_process(words, tmp_path) == by_path


class Unusual(Tiny):
    """Defaults of kinds that a configuration has no words for, or that are written unlike their type."""

    def __init__(
        self,
        scale: float = 1,
        rates: list[float] = [1, 2],  # noqa: B006
        shape: tuple[int, ...] = (1, 2),
        place: Path = Path("x"),
        device: torch.device = torch.device("cpu"),  # noqa: B008
        dtype: torch.dtype = torch.float32,
        activation: nn.Module = nn.Dropout(0.5),  # noqa: B008
        marker=object(),  # noqa: B008
        function: Callable = nn.functional.relu,
    ) -> None:
        super().__init__()


def test_defaults_of_any_kind_are_the_same_written_out(digest: Digest, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["--model=tests.cli.test_identity.Unusual", "--data", DATA]
    written = ["scale=1", "rates=[1,2]", "shape=[1,2]", "place=x", "device=cpu", "dtype=float32"]
    assert digest("", *plain, *(f"--model.{word}" for word in written)) == digest("", *plain)
    assert digest("", *plain, "--model.device=meta") != digest("", *plain)
    assert digest("", *plain, "--model.activation=torch.nn.Dropout") == digest("", *plain)
    main_words = ["explain", *plain]
    with pytest.raises(SystemExit):
        main(main_words)
    printed = capsys.readouterr().out
    assert "unusual/default-" in printed  # nothing differs from the defaults
    assert " at 0x" not in printed


def test_other_words_for_what_trainer_does_anyway_make_no_difference(digest: Digest) -> None:
    words = ["--trainer.precision=32", "--trainer.limit_val_batches=1.0", "--trainer.deterministic=false"]
    assert digest(BASE, *words) == digest()
    assert digest(BASE, "--trainer.precision=16") == digest(BASE, "--trainer.precision=16-mixed") != digest()


def test_what_the_script_itself_gives_the_trainer_counts(capsys: pytest.CaptureFixture[str]) -> None:
    def digest_with(*callbacks: Callback) -> str:
        with pytest.raises(SystemExit):
            RunCLI(Tiny, TinyData, trainer_defaults={"callbacks": list(callbacks)}, args=["explain"])
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if line.startswith("digest "))

    assert digest_with(EarlyStopping("val/loss")) != digest_with()
    assert digest_with(EarlyStopping("val/loss", patience=7)) != digest_with(EarlyStopping("val/loss"))
    assert digest_with(LearningRateMonitor()) == digest_with()


def test_an_optimizer_that_the_script_chooses_counts(capsys: pytest.CaptureFixture[str]) -> None:
    def digest_with(optimizer: type[torch.optim.Optimizer]) -> str:
        class OwnCLI(RunCLI):
            def add_arguments_to_parser(self, parser: Any) -> None:
                parser.add_optimizer_args(optimizer)
                parser.set_defaults({"optimizer.lr": 0.1})

        with pytest.raises(SystemExit):
            OwnCLI(WithoutOptimizer, TinyData, args=["explain"], auto_configure_optimizers=False)
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if line.startswith("digest "))

    assert digest_with(torch.optim.SGD) != digest_with(torch.optim.Adagrad)


class WithoutOptimizer(LightningModule):
    """One whose optimizer comes from the command line."""
