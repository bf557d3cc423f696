"""A fit: where it writes, what it is called, and what is recorded of it."""

import csv
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from runmodel_ext.cli import RunCLI
from runmodel_ext.cli.trainer_commands import main
from runmodel_ext.errors import ConfigError, NameTemplateError
from runmodel_ext.runs import Run, find_runs
from tests.cli.tiny import DATA, MODEL, QUICK, Quiet, Tiny, TinyData, again, fit, run, the_run, weights, words
from tests.warm import Warm

OWN_QUICK = [word for word in QUICK if "logger" not in word]


def files(path: Path) -> set[str]:
    """What lies in a run, without its locks and patch."""
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return {name for name in found if not name.startswith(".") and name != "code.patch"}


# The seed


def test_the_seed_is_a_level_of_the_directory_and_not_of_the_digest(tmp_path: Path) -> None:
    first, second = fit(tmp_path), fit(tmp_path, "--seed_everything=3")
    assert (first.digest, first.seed, second.digest, second.seed) == (first.digest, 0, first.digest, 3)
    assert first.path.parents[1] == second.path.parents[1]
    assert [found.path.parent.name for found in (first, second)] == ["seed=0", "seed=3"]
    assert not torch.equal(*(weights(found)["layer.0.weight"] for found in (first, second)))


def test_a_drawn_seed_becomes_the_level_and_can_be_given_again(tmp_path: Path) -> None:
    drawn = fit(tmp_path / "a", "--seed_everything=true")
    assert isinstance(drawn.seed, int)
    assert drawn.path.parent.name == f"seed={drawn.seed}"
    repeated = fit(tmp_path / "b", f"--seed_everything={drawn.seed}")
    assert torch.equal(weights(drawn)["layer.0.weight"], weights(repeated)["layer.0.weight"])


def test_without_a_seed_the_level_says_none(tmp_path: Path) -> None:
    found = fit(tmp_path, "--seed_everything=false")
    assert found.seed is None
    assert found.path.parent.name == "seed=none"


# Names


def test_a_name_says_what_differs_from_the_defaults(tmp_path: Path) -> None:
    found = fit(tmp_path, "--model.lr=1e-2", "--data.batch_size=2")
    assert found.name == f"tiny/tiny/lr=0.01,batch_size=2,max_epochs=2-{found.digest[:8]}/seed=0/v1"
    assert found.path == tmp_path / found.name


def test_a_callback_stands_in_the_name_with_what_differs_in_it(tmp_path: Path) -> None:
    early = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    found = fit(tmp_path, *early, "--trainer.callbacks.patience=7")
    changes = "EarlyStopping=on,monitor=val_loss,patience=7,max_epochs=2"
    assert found.name.split("/")[2] == f"{changes}-{found.digest[:8]}"


def test_aliases_and_a_template_of_ones_own(tmp_path: Path) -> None:
    found = fit(tmp_path, "--model.lr=0.5", "--run.aliases={model.lr: rate, trainer.max_epochs: n}")
    assert found.name.startswith("tiny/tiny/rate=0.5,n=2-")
    found = fit(tmp_path / "own", "--model.lr=0.5", "--run.name={model}/{model.lr}/{width}-s{seed}-{version}")
    assert found.name == "tiny/0.5/1-s0-1"
    assert found.path.is_dir()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--run.name={data}/{model.lrr}", r"asks for '\{model.lrr\}'.* Did you mean 'model.lr'"),
        ("--run.name=../{digest}", r"'\.\.', which is no directory of its own"),
        ("--run.aliases={model.lrr: a}", r"alias 'a' is for `model.lrr`, which is not a key here"),
        ("--run.ignore=[data.batch]", r"`run.ignore` names 'data.batch'"),
    ],
)
def test_a_key_that_is_not_there_is_refused_before_anything_is_made(tmp_path: Path, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(tmp_path / "results", option)
    assert not (tmp_path / "results").exists()


def test_the_error_of_a_template_is_of_its_own_kind(tmp_path: Path) -> None:
    with pytest.raises(NameTemplateError):
        fit(tmp_path, "--run.name={nothing}")


# Loggers and checkpoints


def test_all_that_a_plain_fit_writes_lies_in_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    again(["fit", f"--model={MODEL}", f"--data={DATA}", *OWN_QUICK])
    found = the_run(Path("results"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]
    written = {name for name in files(found.path) if "events.out" not in name}
    assert written == {
        "config.yaml",
        "run.json",
        "fit-1/metrics.csv",
        "fit-1/hparams.yaml",
        found.record["checkpoints"]["best"],
        "checkpoints/last.ckpt",
    }
    assert list((found.path / "fit-1").glob("events.out*"))


def test_loggers_and_checkpoints_without_a_place_write_into_the_run(tmp_path: Path) -> None:
    config = {
        "trainer": {
            "logger": [{"class_path": "TensorBoardLogger"}, {"class_path": "CSVLogger"}],
            "callbacks": [
                {"class_path": "ModelCheckpoint", "init_args": {"monitor": "train/loss", "filename": "mine"}}
            ],
        }
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    options = [f"--config={tmp_path / 'own.yaml'}", f"--run.root={tmp_path / 'r'}"]
    again(["fit", f"--model={MODEL}", f"--data={DATA}", *OWN_QUICK, *options])
    found = the_run(tmp_path / "r")
    written = files(found.path)
    assert {"fit-1/metrics.csv", "fit-1/csv/metrics.csv", "checkpoints/mine.ckpt", "checkpoints/last.ckpt"} <= written
    assert any(name.startswith("fit-1/events.out") for name in written)
    assert not any("best-" in name for name in written)  # the user's own is the one that chooses
    assert (found.monitor, found.mode) == ("train/loss", "min")
    assert found.record["checkpoints"]["best"] == "checkpoints/mine.ckpt"


def test_loggers_and_checkpoints_with_places_of_their_own_keep_them(tmp_path: Path) -> None:
    places = [
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.save_dir={tmp_path / 'logs'}",
        "--trainer.logger.name=mine",
        "--trainer.callbacks=ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path / 'kept'}",
        "--trainer.callbacks.save_last=true",
    ]
    found = fit(tmp_path / "r", *places)
    assert (tmp_path / "logs/mine/version_0/metrics.csv").exists()
    assert list((tmp_path / "kept").glob("epoch=*.ckpt"))
    # The run keeps its own besides, or it could not be continued and tested.
    assert {"fit-1/metrics.csv", "checkpoints/last.ckpt", found.record["checkpoints"]["best"]} <= files(found.path)


def test_without_checkpoints_none_are_written(tmp_path: Path) -> None:
    found = fit(tmp_path, "--trainer.enable_checkpointing=false")
    assert files(found.path) == {"config.yaml", "run.json", "fit-1/metrics.csv"}
    assert (found.status, found.checkpoint()) == ("finished", None)


def test_a_barebones_fit_is_recorded_without_metrics(tmp_path: Path) -> None:
    bare = [word for word in words("fit", tmp_path) if not word.startswith("--trainer.")]
    with pytest.warns(UserWarning, match="barebones"):
        again([*bare, "--trainer.max_epochs=1", "--trainer.barebones=true", "--trainer.accelerator=cpu"])
    found = the_run(tmp_path)
    assert found.status == "finished"
    assert files(found.path) == {"config.yaml", "run.json"}


def test_callbacks_that_the_script_brings_count_as_the_users(tmp_path: Path) -> None:
    args = ["fit", *QUICK, f"--run.root={tmp_path}"]
    own = ModelCheckpoint(monitor="train/loss", filename="mine", save_last=True)
    RunCLI(Tiny, TinyData, trainer_defaults={"callbacks": own}, args=args)
    found = the_run(tmp_path)
    assert {name for name in files(found.path) if name.endswith(".ckpt")} == {
        "checkpoints/mine.ckpt",
        "checkpoints/last.ckpt",
    }
    assert found.monitor == "train/loss"


def test_a_checkpoint_with_a_key_of_its_own_writes_into_the_run(tmp_path: Path) -> None:
    class OwnCLI(RunCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_lightning_class_args(ModelCheckpoint, "keep")
            parser.add_lightning_class_args(EarlyStopping, "stop")
            parser.set_defaults({"keep.filename": "kept", "stop.monitor": "val/loss"})

    OwnCLI(Tiny, TinyData, args=["fit", *QUICK, f"--run.root={tmp_path}", "--stop.patience=9"])
    found = the_run(tmp_path)
    assert "checkpoints/kept.ckpt" in files(found.path)
    assert found.settings["stop.patience"] == 9
    assert "keep.filename" not in found.settings


# What is best


def test_the_modules_own_metric_chooses_the_best(tmp_path: Path) -> None:
    found = fit(tmp_path)
    assert (found.monitor, found.mode) == ("val/loss", "min")
    best = found.scores["val/loss"]
    rows = [row["val/loss"] for row in found.metrics() if row.get("val/loss") is not None]
    assert best.value == pytest.approx(min(rows))
    assert found.record["checkpoints"] == {
        "best": f"checkpoints/best-epoch={best.epoch}.ckpt",
        "last": "checkpoints/last.ckpt",
    }


def test_a_metric_without_a_direction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`Undirected.monitor` is 'val/loss', but `Undirected.mode` is None"):
        fit(tmp_path / "r", model="tests.cli.tiny.Undirected")
    assert not (tmp_path / "r").exists()


def test_early_stopping_says_what_is_best_where_the_module_does_not(tmp_path: Path) -> None:
    early = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=train/loss"]
    found = fit(tmp_path, *early, model="tests.cli.tiny.Quiet")
    assert (found.monitor, found.mode) == ("train/loss", "min")
    assert "best" in found.record["checkpoints"]


def test_where_nobody_says_what_is_best_the_last_epoch_counts(tmp_path: Path) -> None:
    found = fit(tmp_path, model="tests.cli.tiny.Quiet")
    assert (found.monitor, found.mode, found.record["checkpoints"]) == (None, None, {"last": "checkpoints/last.ckpt"})
    assert found.scores["val/loss"].epoch == 1
    assert found.scores["val/loss"].mode is None
    assert found.checkpoint("best") == found.path / "checkpoints/last.ckpt"


# The record


def test_the_record_holds_all_that_there_is_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for command in (["init", "-q", "-b", "trunk"], ["commit", "-q", "--allow-empty", "-m", "begin"]):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *command], cwd=code, check=True)
    (code / "new.py").write_text("answer = 42\n")
    monkeypatch.chdir(code)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/runmodel", "fit", "--model.lr=0.2"])
    found = fit(Path("results"), "--model.lr=0.2", "--run.tags=[a, b]", "--run.notes=a thought")
    record = found.record
    assert record["schema"] == 1
    assert (found.status, found.reason, found.version) == ("finished", None, 1)
    assert found.created <= found.ended
    assert found.seconds >= 0
    assert (found.tags, found.notes) == (["a", "b"], "a thought")
    assert found.settings == {
        "model": MODEL,
        "model.lr": 0.2,
        "model.note": "",
        "model.width": 1,
        "model.words": None,
        "data": DATA,
        "data.batch_size": 4,
        "trainer.max_epochs": 2,
    }
    assert found.other_settings["trainer.accelerator"] == "cpu"
    assert found.other_settings["data.num_workers"] == 0
    assert found.changes == ["model.lr", "trainer.max_epochs"]
    assert found.progress == {"epoch": 2, "step": 6}
    score = found.scores["val/loss"]
    assert (score.mode, score.source) == ("min", "fit-1")
    assert score.step == (score.epoch + 1) * 3
    assert len(found.code["commit"]) == 40
    assert (found.code["branch"], found.code["dirty"], found.code["patch"]) == ("trunk", True, "code.patch")
    patch = (found.path / "code.patch").read_text()
    assert "+answer = 42" in patch
    assert "results" not in patch
    assert found.environment["torch"] == torch.__version__
    assert {"python", "lightning", "runmodel_ext", "host", "platform", "cuda", "devices"} <= found.environment.keys()
    (attempt,) = found.attempts
    assert attempt["command"] == ["runmodel", "fit", "--model.lr=0.2"]
    assert (attempt["kind"], attempt["number"], attempt["folder"]) == ("fit", 1, "fit-1")
    assert (attempt["status"], attempt["pid"], attempt["world_size"]) == ("finished", os.getpid(), 1)
    assert (attempt["from_step"], attempt["from_epoch"]) == (0, 0)
    assert record["parent"] is None


def test_a_clean_repository_is_recorded_as_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "begin"]):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    found = fit(Path("results"))
    assert (found.code["dirty"], found.code["patch"]) == (False, None)
    assert not (found.path / "code.patch").exists()


def test_every_logged_value_is_in_the_metrics(tmp_path: Path) -> None:
    found = fit(tmp_path)
    with (found.path / "fit-1/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(6))
    assert [(int(row["step"]), row["epoch"]) for row in rows if row["val/loss"]] == [(2, "0"), (5, "1")]


# The same run again


def test_a_fit_is_done_the_second_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fit(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in found.path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert fit(tmp_path).path == found.path
    printed = capsys.readouterr().out
    said = printed.rstrip().splitlines()[-1]
    assert said.startswith("finished already")
    assert said.endswith(f": {found.path}")
    assert "val/loss" in printed
    after = {path: path.stat().st_mtime_ns for path in found.path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "more",
    [
        ["--model.lr=0.3", "--model.words=[b, a, c]"],
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
        ["--trainer.gradient_clip_val=1", "--optimizer=Adam", "--optimizer.lr=0.1"],
        ["--seed_everything=5", "--run.ignore=[model.note]", "--model.note=a 'thought'\\n# of mine"],
        ["--model=tests.cli.test_identity.Unusual"],
        ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
    ],
    ids=lambda more: more[0],
)
@pytest.mark.filterwarnings("ignore:.*will be overridden:UserWarning", "ignore:Swapping scheduler:UserWarning")
@pytest.mark.filterwarnings("ignore:.*optimizer.*:UserWarning")
def test_the_saved_configuration_is_the_same_run_bit_for_bit(tmp_path: Path, more: list[str]) -> None:
    first = fit(tmp_path, *more)
    args = ["fit", f"--config={first.config_path}", "--run.on_existing=new"]
    second = again(args).run
    assert second is not None
    assert (second.digest, second.seed, second.version) == (first.digest, first.seed, 2)
    assert second.path.parent == first.path.parent
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert first.config_path.read_text() == second.config_path.read_text()


# A script of one's own


SCRIPT = """\
from runmodel_ext.cli import RunCLI
from tests.cli import tiny

class Model(tiny.Tiny):
    pass

if __name__ == "__main__":
    RunCLI(Model, tiny.TinyData)
"""


def script(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    searched = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(searched)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_script_of_ones_own_gives_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> None:
    (tmp_path / "own_script.py").write_text(SCRIPT)
    options = [*QUICK, "--model.lr=0.3", f"--run.root={tmp_path / 'r'}"]
    done = script(tmp_path, "own_script.py", "fit", *options)
    assert done.returncode == 0, done.stderr
    found = the_run(tmp_path / "r")
    assert found.settings["model"] == "own_script.Model"
    assert found.attempts[0]["command"] == ["own_script.py", "fit", *options]
    by_path = ["fit", "--model=own_script.Model", f"--data={DATA}", *options]
    code, printed = warm.run(by_path, tmp_path / "log", cwd=tmp_path)
    assert code == 0, printed
    assert "finished already" in printed
    assert found.status == the_run(tmp_path / "r").status == "finished"
    refused = script(tmp_path, "own_script.py", "fit", *options, "--run.name={nothing}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 + refused.stderr.count("Seed set")
    assert "own_script.py: `run.name` '{nothing}' asks for '{nothing}'" in refused.stderr


def test_a_fit_called_by_hand_is_recorded(tmp_path: Path) -> None:
    cli = RunCLI(Tiny, TinyData, run=False, args=[*QUICK, f"--run.root={tmp_path}"])
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    found = the_run(tmp_path)
    assert found.status == "finished"
    assert {"val/loss", "train/loss"} <= found.scores.keys()
    trained = [value.clone() for value in cli.model.parameters()]
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    assert all(torch.equal(*pair) for pair in zip(trained, cli.model.parameters(), strict=True))
    assert the_run(tmp_path).digest == fit(tmp_path).digest


def test_a_fit_called_by_hand_again_is_another_version(tmp_path: Path) -> None:
    for _ in range(2):
        cli = RunCLI(Tiny, TinyData, run=False, args=[*QUICK, f"--run.root={tmp_path}"])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert sorted(found.version for found in find_runs(tmp_path)) == [1, 2]


class StopsOnce(Callback):
    """Fails in the second epoch of the first fit."""

    identity_ignore = True
    failed = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and not StopsOnce.failed:
            StopsOnce.failed = True
            raise RuntimeError("the disk is on fire")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_fit_called_by_hand_goes_on_where_it_failed(tmp_path: Path) -> None:
    uninterrupted = fit(tmp_path / "whole")
    StopsOnce.failed = False
    args = [*QUICK, f"--run.root={tmp_path / 'r'}", "--trainer.callbacks=tests.cli.test_run_cli.StopsOnce"]
    cli = RunCLI(Tiny, TinyData, run=False, args=args)
    with pytest.raises(RuntimeError, match="on fire"):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert the_run(tmp_path / "r").status == "failed"
    assert "RuntimeError: the disk is on fire" in (the_run(tmp_path / "r").reason or "")
    cli = RunCLI(Tiny, TinyData, run=False, args=args)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    found = the_run(tmp_path / "r")
    assert (found.status, [entry["from_epoch"] for entry in found.attempts]) == ("finished", [0, 1])
    assert torch.equal(weights(found)["layer.0.weight"], weights(uninterrupted)["layer.0.weight"])


def test_a_trainer_that_never_fits_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(LOOKS)
    done = script(tmp_path, "looks.py", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "running" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["looks.py"]


LOOKS = """\
from runmodel_ext.cli import RunCLI
from tests.cli import tiny

cli = RunCLI(tiny.Tiny, tiny.TinyData, run=False)
print(cli.run.status)
"""


# What LightningCLI can do, and still does


def test_the_printed_configuration_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("fit", tmp_path / "r", "--print_config")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "r").exists()
    assert yaml.safe_load(text)["model"]["class_path"] == MODEL
    (tmp_path / "printed.yaml").write_text(text)
    again(["fit", f"--config={tmp_path / 'printed.yaml'}"])
    assert the_run(tmp_path / "r").digest == fit(tmp_path / "r").digest


def test_links_and_arguments_of_a_subclass(tmp_path: Path) -> None:
    class OwnCLI(RunCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_argument("--size", type=int, default=2)
            parser.link_arguments("size", "model.width")
            parser.link_arguments("data.batch_size", "model.note", compute_fn=str)

    OwnCLI(Tiny, TinyData, args=["fit", *QUICK, f"--run.root={tmp_path}", "--size=3", "--data.batch_size=5"])
    found = the_run(tmp_path)
    assert found.settings["size"] == 3
    assert "model.width" not in found.settings  # it follows
    assert weights(found)["layer.0.weight"].shape == (3, 2)
    OwnCLI(Tiny, TinyData, args=["test", f"--run={found.path}", "--trainer.enable_progress_bar=false"])
    assert "test/loss" in the_run(tmp_path).scores


def test_optimizer_and_scheduler_from_the_command_line(tmp_path: Path) -> None:
    options = ["--optimizer=Adam", "--optimizer.lr=0.01", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"]
    with pytest.warns(UserWarning, match="will be overridden by"):
        found = fit(tmp_path, *options)
    assert found.settings["optimizer"] == "torch.optim.adam.Adam"
    assert found.settings["lr_scheduler.step_size"] == 1
    state = torch.load(found.path / "checkpoints/last.ckpt", weights_only=True)
    assert "exp_avg" in state["optimizer_states"][0]["state"][0]
    assert state["lr_schedulers"][0]["step_size"] == 1
    assert found.name.split("/")[2].startswith("optimizer=Adam,optimizer.lr=0.01,lr_scheduler=StepLR,step_size=1")


def test_defaults_of_the_trainer_given_by_a_script(tmp_path: Path) -> None:
    few = [word for word in QUICK if "max_epochs" not in word]
    defaults = {"max_epochs": 1}
    RunCLI(Tiny, TinyData, trainer_defaults=defaults, args=["fit", *few, f"--run.root={tmp_path}"])
    assert the_run(tmp_path).settings["trainer.max_epochs"] == 1
    assert the_run(tmp_path).progress["epoch"] == 1


def test_hyperparameters_are_in_the_checkpoint(tmp_path: Path) -> None:
    found = fit(tmp_path, "--model.lr=0.3")
    state = torch.load(found.path / "checkpoints/last.ckpt", weights_only=True)
    assert state["hyper_parameters"]["lr"] == 0.3
    assert Tiny.load_from_checkpoint(found.path / "checkpoints/last.ckpt").lr == 0.3


@pytest.mark.parametrize("word", ["--trainer.fast_dev_run=true", "--help"])
def test_what_only_tries_leaves_nothing(tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        run("fit", tmp_path / "r", word)
    assert not (tmp_path / "r").exists()


def test_the_command_line_finds_the_packages_own_classes_by_bare_names(tmp_path: Path) -> None:
    few = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"]
    model = ["--model=RegressionModule", "--model.network=MLP", "--model.network.in_features=10"]
    sizes = ["--model.network.out_features=1", "--data=Diabetes"]
    main(["fit", *model, *sizes, *QUICK[1:], *few, f"--run.root={tmp_path}"])
    assert Run.read(the_run(tmp_path).path).name.startswith("diabetes/regression-mlp/")


def test_a_module_that_says_nothing_is_enough(tmp_path: Path) -> None:
    assert Quiet.monitor is None
    assert fit(tmp_path, model="tests.cli.tiny.Quiet").status == "finished"
