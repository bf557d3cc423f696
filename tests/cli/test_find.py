"""`test`, `validate` and `predict` find the run that they are about, and never evaluate untrained weights silently."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from runmodel_ext.cli import RunCLI
from runmodel_ext.errors import CheckpointError, ConfigError, NotFoundError
from runmodel_ext.runs import Run, find_runs
from tests.cli.tiny import DATA, MODEL, QUICK, Tiny, TinyData, again, fit, run, the_run
from tests.warm import Warm

QUIETLY = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.logger=false"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one finished run, to be copied."""
    root = tmp_path_factory.mktemp("fitted") / "r"
    fit(root)
    return root


@pytest.fixture
def root(fitted: Path, tmp_path: Path) -> Path:
    """A root with one finished run."""
    shutil.copytree(fitted, tmp_path / "r")
    return tmp_path / "r"


def evaluated_by_hand(checkpoint: Path) -> float:
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    (scores,) = trainer.test(Tiny.load_from_checkpoint(checkpoint), TinyData(), verbose=False)
    return scores["test/loss"]


# By the same configuration


def test_a_test_of_the_same_configuration_finds_the_best_checkpoint(root: Path, capsys: Captured) -> None:
    run("test", root)
    found = the_run(root)
    best = found.checkpoint("best")
    assert best is not None
    score = found.scores["test/loss"]
    assert score.value == pytest.approx(evaluated_by_hand(best))
    assert (score.source, score.checkpoint) == ("test-1", f"checkpoints/{best.name}")
    assert (found.path / "test-1/metrics.csv").exists()
    assert found.status == "finished"
    printed = capsys.readouterr().out
    assert "test/loss" in printed
    assert f"test-1: {found.path / 'test-1'}" in printed


def test_every_test_has_a_folder_of_its_own(root: Path) -> None:
    run("test", root)
    first = (the_run(root).path / "test-1/metrics.csv").read_bytes()
    run("test", root, "--trainer.limit_test_batches=1")
    found = the_run(root)
    assert [entry["folder"] for entry in found.attempts] == ["fit-1", "test-1", "test-2"]
    assert [entry["status"] for entry in found.attempts] == ["finished"] * 3
    assert (found.path / "test-1/metrics.csv").read_bytes() == first
    assert found.attempts[1]["scores"]["test/loss"] != found.attempts[2]["scores"]["test/loss"]


def test_the_metrics_of_the_fit_stay_as_they_are(root: Path) -> None:
    metrics = the_run(root).path / "fit-1/metrics.csv"
    before = metrics.read_bytes()
    for command in ("test", "validate", "predict"):
        run(command, root)
    assert metrics.read_bytes() == before
    assert len(the_run(root).metrics()) == len(before.splitlines()) - 1


def test_a_validation_does_not_replace_the_best_score_of_the_fit(root: Path) -> None:
    before = the_run(root).scores["val/loss"]
    run("validate", root, "--trainer.limit_val_batches=1", "--run.ignore=[trainer.limit_val_batches]")
    found = the_run(root)
    assert found.scores["val/loss"] == before
    assert found.attempts[-1]["scores"]["val/loss"] != before.value


def test_the_last_checkpoint_on_request(root: Path) -> None:
    run("test", root, "--ckpt_path=last")
    found = the_run(root)
    assert found.scores["test/loss"].checkpoint == "checkpoints/last.ckpt"
    run("test", root, "--ckpt_path=best")
    assert the_run(root).scores["test/loss"].checkpoint == found.record["checkpoints"]["best"]


def test_the_newest_version_is_meant(root: Path) -> None:
    fit(root, "--run.on_existing=new")
    run("test", root)
    tested = {found.version: "test/loss" in found.scores for found in find_runs(root)}
    assert tested == {1: False, 2: True}


# By name


@pytest.mark.parametrize(
    "reference",
    [
        lambda found: str(found.path),
        lambda found: str(found.checkpoint()),
        lambda found: found.name,
        lambda found: found.digest[:6],
        lambda found: "last",
    ],
    ids=["path", "checkpoint", "name", "digest", "last"],
)
def test_a_named_run_needs_no_configuration(root: Path, reference: Callable[[Run], str]) -> None:
    again(["test", "--run", reference(the_run(root)), f"--run.root={root}", *QUIETLY])
    found = the_run(root)
    assert found.scores["test/loss"].checkpoint == found.record["checkpoints"]["best"]


def test_the_last_run_is_the_one_that_began_last(root: Path) -> None:
    for rate in ("0.3", "0.2", "0.4", "0.15"):
        made = fit(root, f"--model.lr={rate}")
        cli = again(["test", "--run=last", f"--run.root={root}", *QUIETLY])
        assert cli.run is not None
        assert cli.run.path == made.path


def test_arguments_count_over_those_of_a_named_run(root: Path) -> None:
    cli = again(["test", "--run", the_run(root).name, f"--run.root={root}", "--data.batch_size=11", *QUIETLY])
    assert cli.datamodule.batch_size == 11
    assert cli.run is not None
    assert cli.run.path == the_run(root).path


def test_a_run_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"No run 'nothing' among the 1 below"):
        again(["test", "--run=nothing", f"--run.root={root}"])


def test_a_reference_that_fits_several_lists_them(root: Path) -> None:
    fit(root, "--model.lr=0.3")
    with pytest.raises(NotFoundError, match=r"'tiny' fits 2 runs: .*lr=0\.3.*max_epochs=2"):
        again(["test", "--run=tiny", f"--run.root={root}"])


@pytest.mark.parametrize("words", [["test", "--run"], ["test", "--run", "--ckpt_path=last"]])
def test_an_option_without_its_run_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="`--run` needs a run: its path, its name"):
        again(words)


def test_a_run_is_not_chosen_for_a_fit(root: Path) -> None:
    with pytest.raises(ConfigError, match="`--run` goes with `test`, `validate` or `predict`"):
        again(["fit", "--run=last", f"--run.root={root}"])


# Never untrained


def test_without_a_run_nothing_is_evaluated(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"which holds none. Run `fit` first, or insist with `--untrained`"):
        run("test", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_the_nearest_run_and_its_difference_are_told(root: Path) -> None:
    fit(root, "--model.lr=0.3", "--model.width=4")
    with pytest.raises(NotFoundError) as refused:
        run("test", root, "--model.lr=0.2")
    said = str(refused.value)
    assert "No finished run of this configuration (digest " in said
    assert "The nearest is 'tiny/tiny/max_epochs=2-" in said
    assert "with model.lr=0.1 (wanted 0.2)." in said
    assert len(find_runs(root)) == 2


def test_another_seed_is_named(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"seed 4\).*but with seed 0. Give that `--seed_everything`, or `--run"):
        run("test", root, "--seed_everything=4")


def test_an_interrupted_run_is_told(root: Path) -> None:
    record = the_run(root).path / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"', 1))
    assert the_run(root).status == "interrupted"
    with pytest.raises(NotFoundError, match=r"is interrupted. Run `fit` again to continue it, or .*`--run "):
        run("test", root)
    again(["test", f"--run={the_run(root).path}", *QUIETLY])
    assert "test/loss" in the_run(root).scores


def test_untrained_weights_only_on_request(root: Path, capsys: Captured) -> None:
    cli = run("test", root, "--untrained", "--model.lr=0.7")
    assert cli.run is None
    assert "The weights are untrained." in capsys.readouterr().err
    assert len(find_runs(root)) == 1
    assert "test/loss" not in the_run(root).scores


def test_a_run_without_a_checkpoint_is_told(root: Path) -> None:
    shutil.rmtree(the_run(root).path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"\(finished\) has no checkpoint to test"):
        run("test", root)


# A checkpoint that is named


def test_a_checkpoint_within_a_run_is_recorded_there(root: Path) -> None:
    last = the_run(root).checkpoint("last")
    run("test", root / "elsewhere", f"--ckpt_path={last}")
    assert the_run(root).scores["test/loss"].checkpoint == "checkpoints/last.ckpt"


def test_a_checkpoint_of_nobody_is_tested_and_nothing_is_recorded(root: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(str(the_run(root).checkpoint("last")), alone)
    cli = run("test", tmp_path / "none", f"--ckpt_path={alone}")
    assert cli.run is None
    assert cli.trainer.callback_metrics["test/loss"] == pytest.approx(evaluated_by_hand(alone))
    assert not (tmp_path / "none").exists()


def test_it_is_said_where_a_checkpoint_differs_from_the_arguments(root: Path, tmp_path: Path, capsys: Captured) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(str(the_run(root).checkpoint("last")), alone)
    run("test", root, f"--ckpt_path={alone}", "--model.lr=0.5")
    said = "was made with other settings, the arguments count: model.lr=0.5 (there 0.1)."
    assert said in capsys.readouterr().err
    run("test", root, f"--ckpt_path={alone}")
    assert "other settings" not in capsys.readouterr().err


def test_a_fit_from_a_checkpoint_takes_the_arguments_and_says_so(root: Path, tmp_path: Path, capsys: Captured) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(str(the_run(root).checkpoint("last")), alone)
    cli = run("fit", root, f"--ckpt_path={alone}", "--model.lr=0.5", "--trainer.max_epochs=3")
    assert cli.model.lr == 0.5
    assert "model.lr=0.5 (there 0.1)" in capsys.readouterr().err
    (started,) = [found for found in find_runs(root) if "start" in found.settings]
    assert f",start={started.settings['start'][:8]}-" in started.name
    # What the other run reached is not this one's score.
    assert {score.epoch for score in started.scores.values()} == {2}
    assert started.record["checkpoints"]["best"] == "checkpoints/best-epoch=2.ckpt"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "There is no checkpoint"), (b"no zip", r"is not a checkpoint, or a damaged one \(6 bytes\)")],
)
def test_a_file_that_is_no_checkpoint_is_refused(root: Path, tmp_path: Path, content: Any, said: str) -> None:
    if content is not None:
        (tmp_path / "x.ckpt").write_bytes(content)
    for command in ("test", "fit"):
        with pytest.raises(CheckpointError, match=said):
            run(command, root, f"--ckpt_path={tmp_path / 'x.ckpt'}", "--model.lr=0.9")
    assert [entry["kind"] for entry in the_run(root).attempts] == ["fit"]


def test_a_pickle_that_is_no_checkpoint_is_refused(root: Path, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds no `state_dict`"):
        run("test", root, f"--ckpt_path={tmp_path / 'x.ckpt'}")


# A class that has changed since


BEFORE = """\
from tests.cli import tiny

class Model(tiny.Tiny):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
"""
AFTER = BEFORE.replace("lr: float = 0.1", "lr: float = 0.1, momentum: float = 0.0, *, scale: float = 1")


def test_a_new_argument_with_a_default_still_finds_the_run(tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "drifting.py").write_text(BEFORE)
    options = ["--model=drifting.Model", f"--data={DATA}", "--trainer.max_epochs=1", *QUIETLY]

    def command(name: str, *more: str) -> str:
        code, printed = warm.run([name, *options, *more], tmp_path / f"log-{name}", cwd=tmp_path)
        assert code == 0, printed
        return printed

    command("fit")
    before = the_run(tmp_path / "results")
    (tmp_path / "drifting.py").write_text(AFTER)
    notice = f"The run '{before.name}' was made before model.momentum, model.scale existed; at the default"
    for name in ("fit", "test", "explain"):
        printed = command(name)
        if name != "explain":
            assert printed.count(notice) == 1
    found = the_run(tmp_path / "results")
    assert (found.digest, len(found.attempts)) == (before.digest, 2)
    assert "test/loss" in found.scores
    assert "done" in command("explain")
    code, printed = warm.run(["test", *options, "--model.momentum=0.9"], tmp_path / "log", cwd=tmp_path)
    assert code == 2
    assert "model.momentum=unset (wanted 0.9)" in printed


def test_a_data_module_that_the_script_gives_is_found_too(tmp_path: Path) -> None:
    options = [*QUICK, f"--run.root={tmp_path}"]
    RunCLI(Tiny, TinyData, args=["fit", *options])
    RunCLI(Tiny, TinyData, args=["test", *options])
    assert "test/loss" in the_run(tmp_path).scores
    again(["validate", f"--model={MODEL}", f"--data={DATA}", *options])
    assert len(the_run(tmp_path).attempts) == 3
