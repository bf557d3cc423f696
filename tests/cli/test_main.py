"""The door, as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import runmodel_ext
from runmodel_ext.cli import main as door
from runmodel_ext.cli.main import RECORD_COMMANDS, TRAINER_COMMANDS, is_for_the_trainer, main
from runmodel_ext.errors import RunModelError
from tests.runs.factory import write_run

ROOT = Path(__file__).parents[2]
SEARCHED = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
Captured = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: Captured) -> Refused:
    """Run the words, which must be refused; what the user reads."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(words)
        captured = capsys.readouterr()
        assert ended.value.code == 2
        assert captured.out == ""
        return captured.err

    return run


@pytest.fixture
def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the trainer's commands were given; nothing is trained."""
    calls: list[list[str]] = []
    monkeypatch.setattr(door, "_train", lambda words: calls.append(list(words)))
    return calls


def in_a_process(*words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    command = [sys.executable, "-m", "runmodel_ext", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def test_help_names_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    for command in [*TRAINER_COMMANDS, *RECORD_COMMANDS]:
        assert [line for line in lines if line.startswith(f"{command}  ") or line.startswith(f"{command} ")]
    assert "runmodel fit --config" in text.split("examples:")[1]


def test_no_command_prints_the_help(capsys: Captured) -> None:
    main([])
    assert capsys.readouterr().out.startswith("usage: runmodel <command>")


def test_runs_without_a_command_prints_those_below_it(capsys: Captured) -> None:
    main(["runs"])
    assert "diff" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"runmodel {runmodel_ext.__version__}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fti"], "There is no command 'fti'. Did you mean 'fit'? See `runmodel --help`."),
        (["list"], "There is no command 'list'. Did you mean 'runs list'? See `runmodel --help`."),
        (["runs", "lsit"], "There is no command 'lsit'. Did you mean 'list'? See `runmodel runs --help`."),
        (
            ["runs", "list", "--colums", "lr"],
            "There is no option '--colums'. Did you mean '--columns'? See `runmodel runs list --help`.",
        ),
        (
            ["runs", "list", "--format", "xml"],
            "There is no --format 'xml'. There are table, csv, json, markdown. See `runmodel runs list --help`.",
        ),
        (
            ["runs", "list", "--limit", "x"],
            "Argument --limit: invalid int value: 'x'. See `runmodel runs list --help`.",
        ),
        (
            ["runs", "show"],
            "The following arguments are required: run. See `runmodel runs show --help`.",
        ),
        (["runs", "path", "a", "b"], "There is no argument 'b'. See `runmodel runs path --help`."),
    ],
)
def test_a_mistake_is_one_sentence_with_what_was_probably_meant(
    words: list[str], sentence: str, refused: Refused
) -> None:
    assert refused(*words) == f"runmodel: {sentence}\n"


def test_a_users_error_is_one_line(tmp_path: Path, refused: Refused) -> None:
    text = refused("runs", "show", "nothing", "--root", str(tmp_path))
    assert text.startswith("runmodel: No run 'nothing' below ")
    assert text.count("\n") == 1


def test_a_bad_condition_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert "has no operator" in refused("runs", "list", "--where", "lr", "--root", str(tmp_path))


def test_debugging_keeps_the_traceback_of_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNMODEL_DEBUG", "1")
    with pytest.raises(RunModelError, match="No run 'nothing'"):
        main(["runs", "show", "nothing", "--root", str(tmp_path)])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(door, "_train", bug)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["fit"])


def test_a_broken_pipe_that_is_not_the_output_is_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def bug(_: object) -> None:
        raise BrokenPipeError("a worker died")

    monkeypatch.setattr(door, "_train", bug)
    with pytest.raises(BrokenPipeError, match="a worker died"):
        main(["fit"])


def test_ctrl_c_exits_as_shells_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(door, "_train", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["fit"])
    assert ended.value.code == 130


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "c.yaml", "--model.lr", "0.1"],
        ["--config", "full.yaml", "fit"],
        ["--config=full.yaml", "test"],
        ["-c", "full.yaml", "fit"],
        ["--seed_everything", "1", "validate"],
        ["explain", "--help"],
        ["schema"],
    ],
)
def test_the_trainers_words_are_handed_on_as_they_are(words: list[str], handed_on: list[list[str]]) -> None:
    main(words)
    assert handed_on == [words]


@pytest.mark.parametrize("words", [["runs", "show", "fit"], ["adopt", "test"], ["--help"], ["--version"], []])
def test_other_words_are_not(words: list[str]) -> None:
    assert not is_for_the_trainer(words)


def test_conditions_may_be_repeated(tmp_path: Path, capsys: Captured) -> None:
    for lr in (0.1, 0.01, 0.001):
        write_run(tmp_path, f"lr={lr}", settings={"model.lr": lr})
    words = ["--where", "lr<0.1", "--where", "lr>0.001", "--columns", "name, lr"]
    main(["runs", "list", "--root", str(tmp_path), *words])
    assert capsys.readouterr().out.splitlines()[1:] == ["lr=0.01  0.01"]


@pytest.mark.parametrize(("option", "first"), [("--ascending", "0.001"), ("--descending", "0.1")])
def test_the_direction_can_be_chosen(option: str, first: str, tmp_path: Path, capsys: Captured) -> None:
    for lr in (0.1, 0.01, 0.001):
        write_run(tmp_path, f"lr={lr}", settings={"model.lr": lr})
    main(["runs", "list", "--root", str(tmp_path), "--sort", "lr", option, "--columns", "lr", "--limit", "1"])
    assert capsys.readouterr().out.split() == ["lr", first]


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    for number in range(300):
        write_run(tmp_path, f"run-{number}", settings={"model.notes": "x" * 500})
    words = f"runs list --columns name,model.notes --root '{tmp_path}'"
    command = f"'{sys.executable}' -m runmodel_ext {words} | head -n 1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 141
    assert done.stdout.split() == ["name", "model.notes"]
    assert done.stderr == ""


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = in_a_process("runs", "list", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "No runs under 'results'. `runmodel fit --config ...` makes one.\n"


def test_users_own_classes_are_found_where_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    trainer = SimpleNamespace(main=lambda words: seen.append(sys.path[:1]))
    monkeypatch.setitem(sys.modules, "runmodel_ext.cli.trainer_commands", trainer)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    main(["fit"])
    main(["fit"])
    assert seen == [[str(tmp_path)]] * 2
    assert sys.path.count(str(tmp_path)) == 1


def completions(line: str, folder: Path) -> list[str]:
    """What a shell is offered for a line, by argcomplete's protocol: the answer comes on descriptor 8."""
    pytest.importorskip("argcomplete")
    answer = folder / "answer"
    question = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    environment = {**os.environ, **question, "_ARGCOMPLETE_IFS": "\n", "PYTHONPATH": SEARCHED}
    command = f"exec 8>'{answer}'; exec '{sys.executable}' -m runmodel_ext"
    subprocess.run(["bash", "-c", command], env=environment, cwd=folder, capture_output=True, check=False)
    return [word.strip() for word in answer.read_text().splitlines()]


def test_the_shell_is_offered_all_commands(tmp_path: Path) -> None:
    assert {*TRAINER_COMMANDS, "runs", "adopt"} <= set(completions("runmodel ", tmp_path))
    assert completions("runmodel runs di", tmp_path) == ["diff"]


def test_the_shell_is_offered_options_and_their_choices(tmp_path: Path) -> None:
    assert completions("runmodel runs list --form", tmp_path) == ["--format"]
    assert completions("runmodel runs list --format m", tmp_path) == ["markdown"]


def test_the_shell_is_offered_the_runs_there_are(tmp_path: Path) -> None:
    write_run(tmp_path / "results", "digits/cnn/v1")
    write_run(tmp_path / "elsewhere", "wine/mlp/v1")
    assert completions("runmodel runs show dig", tmp_path) == ["digits/cnn/v1"]
    assert completions("runmodel runs show --root elsewhere w", tmp_path) == ["wine/mlp/v1"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runmodel fit --trainer.max_ep", ["--trainer.max_epochs"]),
        ("runmodel plan --trainer.max_ep", ["--trainer.max_epochs"]),
        ("runmodel --config c.yaml explain --trainer.enable_progress_bar ", ["true", "false", "null"]),
    ],
)
def test_the_shell_is_offered_the_trainers_options(line: str, words: list[str], tmp_path: Path) -> None:
    assert completions(line, tmp_path) == words
