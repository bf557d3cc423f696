"""What a fit does where a run of its configuration is there already, and what it leaves where none is made."""

import re
import subprocess
from pathlib import Path

import pytest

from runmodel_ext.runs import Run, find_runs
from tests.life.kit import CONFIG, assert_same_end, fit_args, fits, only_run, until
from tests.warm import Warm

SHORT = CONFIG.replace("max_epochs: 4", "max_epochs: 1\n  limit_train_batches: 2\n  limit_val_batches: 1")
LONG = CONFIG.replace("max_epochs: 4", "max_epochs: 12")


@pytest.fixture
def finished(warm: Warm, tmp_path: Path) -> list[str]:
    """The words of a short fit that is finished."""
    words = fit_args(tmp_path, config=SHORT)
    code, text = warm.run(words, tmp_path / "log")
    assert code == 0, text
    return words


def test_a_finished_run_is_shown_and_left_alone(warm: Warm, tmp_path: Path, finished: list[str]) -> None:
    record = only_run(tmp_path).path / "run.json"
    before = record.read_bytes()
    for word in ("auto", "resume", "skip"):
        code, text = warm.run([*finished, f"--run.on_existing={word}"], tmp_path / "log")
        assert code == 0, text
        assert re.search(f"^finished already.*: {re.escape(str(record.parent))}$", text, re.MULTILINE)
        assert "val/acc" in text
    assert record.read_bytes() == before


def test_new_makes_the_next_version_with_the_same_bits(warm: Warm, tmp_path: Path, finished: list[str]) -> None:
    code, text = warm.run([*finished, "--run.on_existing=new"], tmp_path / "log")
    assert code == 0, text
    first, second = sorted(find_runs(tmp_path / "results"), key=lambda run: run.version)
    assert (first.path.name, second.path.name) == ("v1", "v2")
    assert first.path.parent == second.path.parent
    assert_same_end(first, second)


def test_overwrite_moves_the_old_run_aside(warm: Warm, tmp_path: Path, finished: list[str]) -> None:
    old = only_run(tmp_path)
    (old.path / "mine.txt").write_text("kept")
    code, text = warm.run([*finished, "--run.on_existing=overwrite"], tmp_path / "log")
    assert code == 0, text
    new = only_run(tmp_path)
    assert new.path == old.path
    assert not (new.path / "mine.txt").exists()
    (aside,) = (tmp_path / "results" / ".replaced").glob("**/run.json")
    assert (aside.parent / "mine.txt").read_text() == "kept"
    assert aside.parent.parent.relative_to(tmp_path / "results" / ".replaced").as_posix() == old.name


def test_error_refuses_and_says_how_the_run_stands(warm: Warm, tmp_path: Path, finished: list[str]) -> None:
    code, text = warm.run([*finished, "--run.on_existing=error"], tmp_path / "log")
    assert code == 2
    assert f"The run '{only_run(tmp_path).path}' is there already (finished)" in text


def test_resume_refuses_where_nothing_is_there(warm: Warm, tmp_path: Path) -> None:
    code, text = warm.run([*fit_args(tmp_path, config=SHORT), "--run.on_existing=resume"], tmp_path / "log")
    assert code == 2
    assert "No run of this configuration" in text
    assert "is there to resume" in text
    assert not (tmp_path / "results").exists()


def test_skip_leaves_an_interrupted_run_as_it_is(warm: Warm, tmp_path: Path) -> None:
    words = fit_args(tmp_path)
    command = warm.start(words, tmp_path / "log")
    until(lambda: find_runs(tmp_path / "results"), "record", command.is_over)
    command.kill()
    command.wait()
    before = (only_run(tmp_path).path / "run.json").read_bytes()
    code, text = warm.run([*words, "--run.on_existing=skip"], tmp_path / "log")
    assert code == 0, text
    assert "interrupted" in text
    assert (only_run(tmp_path).path / "run.json").read_bytes() == before


def test_a_finished_run_whose_code_has_changed_says_so(warm: Warm, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    source = tmp_path / "source"
    source.mkdir()
    (source / "code.py").write_text("A = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=source, check=True)
    fit = fit_args(tmp_path, config=SHORT)
    assert warm.run(fit, tmp_path / "log", cwd=source)[0] == 0
    assert "The code has changed" not in warm.run(fit, tmp_path / "log", cwd=source)[1]
    (source / "code.py").write_text("A = 2\n")
    code, text = warm.run(fit, tmp_path / "log", cwd=source)
    assert code == 0
    assert f"The code has changed since '{only_run(tmp_path).name}' was trained" in text


@pytest.mark.parametrize("extra", [["--trainer.fast_dev_run=true"], ["--print_config"], ["--help"]])
def test_nothing_is_left_behind_by(warm: Warm, tmp_path: Path, extra: list[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, text = warm.run([*fit_args(tmp_path), *extra], tmp_path / "log", cwd=empty)
    assert code == 0, text
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["config.yaml", "empty", "log"]


def test_extend_goes_on_with_a_finished_run(warm: Warm, tmp_path: Path) -> None:
    assert warm.run(fit_args(tmp_path), tmp_path / "log")[0] == 0
    parent = only_run(tmp_path)
    kept = (parent.path / "run.json").read_bytes()
    root = f"--run.root={tmp_path / 'results'}"
    extend = ["fit", "--extend", str(parent.path), "--trainer.max_epochs=6", root]
    code, text = warm.run(extend, tmp_path / "log")
    assert code == 0, text
    (child,) = [run for run in find_runs(tmp_path / "results") if run.name != parent.name]
    assert child.parent is not None
    assert (child.parent["run"], child.parent["digest"]) == (parent.name, parent.digest)
    assert child.attempts[0]["from_epoch"] == 4
    assert child.progress == {"epoch": 6, "step": 54}
    assert [row["step"] for row in child.metrics() if "train/loss" in row] == list(range(36, 54))
    assert (parent.path / "run.json").read_bytes() == kept

    code, text = warm.run(extend, tmp_path / "log")
    assert (code, "finished already" in text) == (0, True), text
    again = ["fit", "--config", str(child.config_path), root]
    code, text = warm.run(again, tmp_path / "log")
    assert (code, "finished already" in text) == (0, True), text

    code, text = warm.run([*extend, "--trainer.max_epochs=4"], tmp_path / "log")
    assert code == 2
    assert f"'{parent.name}' has trained 4 epochs already, and `trainer.max_epochs` is 4" in text
    assert len(find_runs(tmp_path / "results")) == 2


def extended(folder: Path) -> Run:
    """The newest run below ``folder/pieces``."""
    return max(find_runs(folder / "pieces" / "results"), key=lambda run: (run.parent is not None, run.version))


def test_extended_by_pieces_is_the_run_that_was_trained_at_once(warm: Warm, tmp_path: Path) -> None:
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    assert warm.run(fit_args(tmp_path / "whole", "--trainer.max_epochs=3"), tmp_path / "log")[0] == 0
    assert warm.run(fit_args(tmp_path / "pieces", "--trainer.max_epochs=1"), tmp_path / "log")[0] == 0
    extend = ["fit", "--extend", str(only_run(tmp_path / "pieces").path), "--trainer.max_epochs=3"]
    command = warm.start(extend, tmp_path / "log")
    until(lambda: extended(tmp_path).parent and len(extended(tmp_path).metrics()) > 3, "rows", command.is_over)
    command.kill()
    command.wait()
    assert warm.run(extend, tmp_path / "log")[0] == 0
    pieces = extended(tmp_path)
    assert [status for status, _ in fits(pieces)] == ["interrupted", "finished"]
    whole = only_run(tmp_path / "whole")
    assert pieces.metrics() == whole.metrics()[-len(pieces.metrics()) :]
    assert pieces.scores["val/acc"].value == whole.scores["val/acc"].value


def test_of_eight_at_once_each_new_one_gets_a_directory_of_its_own(warm: Warm, tmp_path: Path) -> None:
    words = [*fit_args(tmp_path, config=SHORT), "--run.on_existing=new"]
    commands = [warm.start(words, tmp_path / f"log-{place}") for place in range(8)]
    assert [command.wait() for command in commands] == [0] * 8
    runs = sorted(find_runs(tmp_path / "results"), key=lambda run: run.version)
    assert [run.path.name for run in runs] == [f"v{version}" for version in range(1, 9)]
    assert {run.status for run in runs} == {"finished"}
    assert {run.attempts[0]["pid"] for run in runs} == {command.pid for command in commands}
    for run in runs:
        assert len(run.attempts) == 1
        assert_same_end(run, runs[0])


def test_of_eight_at_once_one_trains_and_seven_say_who(warm: Warm, tmp_path: Path) -> None:
    words = fit_args(tmp_path, config=LONG)
    commands = [warm.start(words, tmp_path / f"log-{place}") for place in range(8)]
    codes = [command.wait() for command in commands]
    assert sorted(codes) == [0] + [2] * 7
    run = only_run(tmp_path)
    assert run.status == "finished"
    (holder,) = [command.pid for command, code in zip(commands, codes, strict=True) if code == 0]
    assert [entry["pid"] for entry in run.attempts] == [holder]
    host = run.attempts[0]["host"]
    for command, code in zip(commands, codes, strict=True):
        if code == 2:
            told = f"The run '{run.path}' is being trained by process {holder} on {host} since "
            assert told in command.text
            assert "Traceback" not in command.text
