"""`runmodel explain` says what a fit would do, and does nothing."""

from pathlib import Path

import pytest

from runmodel_ext.errors import ConfigError, NameTemplateError
from runmodel_ext.runs import RunWriter
from runmodel_ext.runs.locks import try_lock
from runmodel_ext.runs.run import LOCK
from tests.cli.tiny import fit, run, the_run

Captured = pytest.CaptureFixture[str]


def explained(capsys: Captured, root: Path, *more: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run("explain", root, *more)
    assert ended.value.code == 0
    return capsys.readouterr().out


def line(text: str, start: str) -> str:
    """What stands behind a word at the beginning of a line."""
    (found,) = [row for row in text.splitlines() if row.split()[:1] == [start]]
    return found.removeprefix(start).strip()


def test_a_new_run_is_explained_and_nothing_is_made(tmp_path: Path, capsys: Captured) -> None:
    text = explained(capsys, tmp_path / "r", "--model.lr=0.3")
    assert not (tmp_path / "r").exists()
    assert line(text, "seed") == "0"
    assert line(text, "fit") == "new: `fit` would train it from the start"
    made = fit(tmp_path / "r", "--model.lr=0.3")
    assert line(text, "directory") == str(made.path)
    assert line(text, "digest") == made.digest


def test_it_is_said_which_keys_decide_and_which_were_left_out(tmp_path: Path, capsys: Captured) -> None:
    text = explained(capsys, tmp_path, "--model.lr=0.3")
    deciding, left_out = text.split("These were left out.")
    assert line(deciding, "model.lr").split() == ["0.3", "yes", "0.1"]
    assert line(deciding, "model.width").split() == ["1", "1"]
    assert line(deciding, "trainer.max_epochs").split() == ["2", "yes"]
    assert line(left_out, "data.num_workers") == "0"
    assert line(left_out, "trainer.accelerator") == "cpu"
    assert "model.lr" not in left_out


def test_a_finished_run_is_done(tmp_path: Path, capsys: Captured) -> None:
    found = fit(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    text = explained(capsys, tmp_path)
    assert line(text, "fit") == "done: `fit` would print its scores and end (finished)"
    assert line(text, "directory") == str(found.path)
    assert "new: `fit` would" in explained(capsys, tmp_path, "--run.on_existing=new")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_an_interrupted_run_would_go_on(tmp_path: Path, capsys: Captured) -> None:
    RunWriter(fit(tmp_path).path, "fit-1").end("interrupted", "SIGTERM")
    text = explained(capsys, tmp_path)
    assert line(text, "fit") == "resume: `fit` would go on where it stopped (interrupted)"


def test_a_run_that_lives_is_busy(tmp_path: Path, capsys: Captured) -> None:
    found = fit(tmp_path)
    RunWriter(found.path, "fit-1").end("running")
    lock = try_lock(found.path / LOCK)
    assert lock is not None
    try:
        text = explained(capsys, tmp_path)
    finally:
        lock.release()
    assert line(text, "fit") == "busy: a living process is training it, `fit` would refuse (running)"


@pytest.mark.parametrize(("on_existing", "said"), [("error", "exists: `fit` would refuse"), ("skip", "done: ")])
def test_what_the_user_asks_for_counts(tmp_path: Path, capsys: Captured, on_existing: str, said: str) -> None:
    fit(tmp_path)
    assert line(explained(capsys, tmp_path, f"--run.on_existing={on_existing}"), "fit").startswith(said)
    other = ["--model.lr=0.9", "--run.on_existing=resume"]
    assert "none: there is no run to resume" in explained(capsys, tmp_path, *other)


def test_the_nearest_run_and_how_it_differs(tmp_path: Path, capsys: Captured) -> None:
    near = fit(tmp_path, "--model.lr=0.3")
    fit(tmp_path, "--model.lr=0.4", "--model.width=2")
    text = explained(capsys, tmp_path, "--model.lr=0.3", "--data.batch_size=5")
    assert f"The nearest is '{near.name}' (finished), with data.batch_size=4 (wanted 5)." in text


def test_another_seed_is_nearest_of_all(tmp_path: Path, capsys: Captured) -> None:
    fit(tmp_path)
    text = explained(capsys, tmp_path, "--seed_everything=2")
    assert f"The nearest is '{the_run(tmp_path).name}' (finished). It has the same settings, with another seed" in text


def test_what_a_fit_would_refuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NameTemplateError, match=r"asks for '\{nothing\}'"):
        run("explain", tmp_path, "--run.name={nothing}")
    with pytest.raises(ConfigError, match="names 'nothing'"):
        run("explain", tmp_path, "--run.ignore=[nothing]")
