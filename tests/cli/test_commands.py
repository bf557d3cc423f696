"""What `runmodel runs ...` prints."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from runmodel_ext.cli.commands import adopt_runs, diff_runs, list_runs, path_of_run, show_run
from runmodel_ext.errors import CheckpointError, ConfigError, NotFoundError
from tests.runs.factory import write_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three runs: a better, a worse, and one that failed before it had a score."""
    write_run(
        tmp_path,
        "digits/cnn/lr=0.1-aaaa/seed=0/v1",
        settings={"model.lr": 0.1},
        scores={"val/acc": 0.9123456, "val/loss": float("nan"), "test/acc": 0.905},
        created="2026-11-23T07:10:01+00:00",
        digest="a" * 52,
        tags=["first", "a|b"],
        files=("checkpoints/last.ckpt",),
    )
    write_run(
        tmp_path,
        "digits/cnn/lr=0.01-bbbb/seed=0/v1",
        scores={"val/acc": 0.98},
        created="2026-11-24T07:10:01+00:00",
        digest="b" * 52,
        seconds=3725.0,
        files=("checkpoints/last.ckpt", "checkpoints/best-epoch=7.ckpt"),
    )
    write_run(
        tmp_path,
        "digits/cnn/lr=9-cccc/seed=0/v1",
        settings={"model.lr": 9.0},
        scores={"val/acc": ..., "val/loss": ..., "train/loss": ...},
        created="2026-11-25T07:10:01+00:00",
        digest="c" * 52,
        status="failed",
        reason="RuntimeError: loss is nan",
        seconds=None,
        checkpoints={},
    )
    return str(tmp_path)


def columns_of(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_runs_are_listed_newest_first_with_their_main_scores(root: str, capsys: Captured) -> None:
    list_runs(root)
    title, *lines = capsys.readouterr().out.splitlines()
    assert columns_of(title) == ["status", "name", "val/acc", "test/acc", "epoch", "duration", "created"]
    cells = [columns_of(line)[:6] for line in lines]
    assert [row[1].split("-")[1][:4] for row in cells] == ["cccc", "bbbb", "aaaa"]
    assert cells[1] == ["finished", "digits/cnn/lr=0.01-bbbb/seed=0/v1", "0.98", "-", "10", "1 h 2 min"]
    assert cells[2][2:4] == ["0.9123", "0.905"]


def test_the_best_score_comes_first_and_a_run_without_one_last(root: str, capsys: Captured) -> None:
    list_runs(root, sort="val/acc", columns=["digest"])
    assert [line[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["b", "a", "c"]


def test_conditions_hold_together(root: str, capsys: Captured) -> None:
    list_runs(root, where=["lr<1", "status=finished", "val/acc>0.95"], columns=["name"])
    assert capsys.readouterr().out.splitlines() == ["name", "digits/cnn/lr=0.01-bbbb/seed=0/v1"]


def test_any_setting_is_a_column(root: str, capsys: Captured) -> None:
    list_runs(root, columns=["model.lr", "width"], sort="lr", limit=2)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["model.lr", "width"],
        ["0.01", "32"],
        ["0.1", "32"],
    ]


def test_duration_is_a_word_for_seconds(root: str, capsys: Captured) -> None:
    list_runs(root, columns=["duration"], sort="duration")
    assert capsys.readouterr().out.splitlines() == ["duration", "12.3 s", "1 h 2 min", "-"]


def test_csv_and_json_hold_exact_values_under_the_fields_own_names(root: str, capsys: Captured) -> None:
    list_runs(root, form="csv")
    row = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[2]
    assert (row["val/acc"], row["seconds"], row["created"]) == (
        "0.9123456",
        "12.3",
        "2026-11-23T07:10:01+00:00",
    )
    list_runs(root, form="json", columns=["val/acc", "val/loss", "tags", "seconds"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[2] == {"val/acc": 0.9123456, "val/loss": None, "tags": ["first", "a|b"], "seconds": 12.3}
    assert rows[0]["seconds"] is None


def test_a_column_that_no_run_has_is_refused_with_the_nearest(root: str) -> None:
    with pytest.raises(ConfigError, match=r"None of the 3 runs has a field 'val/ac'. Did you mean 'val/acc'"):
        list_runs(root, columns=["name", "val/ac"])


def test_a_column_that_is_there_but_empty_is_printed(root: str, capsys: Captured) -> None:
    list_runs(root, columns=["gradient_clip_val", "parent"], limit=1)
    assert capsys.readouterr().out.split() == ["gradient_clip_val", "parent", "-", "-"]


@pytest.mark.parametrize(("form", "out"), [("table", ""), ("csv", ""), ("json", "[]\n"), ("markdown", "")])
def test_no_runs_are_one_friendly_line(form: str, out: str, tmp_path: Path, capsys: Captured) -> None:
    list_runs(str(tmp_path), form=form)
    captured = capsys.readouterr()
    assert captured.out == out
    assert captured.err == f"No runs under '{tmp_path}'. `runmodel fit --config ...` makes one.\n"


def test_no_run_that_fits_is_told_apart_from_no_run(root: str, capsys: Captured) -> None:
    list_runs(root, where=["lr>100"])
    assert capsys.readouterr().err == f"No run under '{root}' fulfils 'lr>100'.\n"


def test_show_tells_how_a_run_ended_and_what_made_it(root: str, capsys: Captured) -> None:
    show_run("cccc", root)
    text = capsys.readouterr().out
    assert text.startswith("digits/cnn/lr=9-cccc/seed=0/v1\n")
    assert "failed (RuntimeError: loss is nan)" in text
    changed, rest = text.index("Settings that differ"), text.index("Settings at their defaults")
    assert changed < text.index("model.lr") < rest < text.index("data.batch_size")


def test_show_prints_scores_with_direction_and_place(root: str, capsys: Captured) -> None:
    show_run("bbbb", root)
    rows = [columns_of(line) for line in capsys.readouterr().out.splitlines() if line.startswith("val/acc")]
    assert rows[0][:3] == ["val/acc", "0.98", "max"]
    assert "fit-1" in rows[0]


def test_show_says_which_checkpoints_are_gone(root: str, capsys: Captured) -> None:
    show_run("aaaa", root)
    lines = [columns_of(line) for line in capsys.readouterr().out.splitlines()]
    assert ["best", "checkpoints/best-epoch=7.ckpt (no longer there)"] in lines
    assert ["last", "checkpoints/last.ckpt"] in lines


def test_show_as_json_is_the_record(root: str, capsys: Captured) -> None:
    show_run("aaaa", root, "json")
    record = json.loads(capsys.readouterr().out)
    assert record["digest"] == "a" * 52
    assert record["scores"]["val/loss"]["value"] is None
    assert Path(record["path"]) == Path(root, record["name"])


def test_a_killed_run_reads_as_interrupted(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path, "killed/v1", status="running", ended=None)
    show_run("last", str(tmp_path), "json")
    record = json.loads(capsys.readouterr().out)
    assert (record["status"], record["reason"]) == ("interrupted", "the process was killed")


def test_diff_prints_what_differs_and_marks_the_best(root: str, capsys: Captured) -> None:
    diff_runs(["aaaa", "bbbb"], root)
    lines = [columns_of(line) for line in capsys.readouterr().out.splitlines()]
    assert ["A", "digits/cnn/lr=0.1-aaaa/seed=0/v1"] in lines
    assert ["model.lr", "0.1", "0.01"] in lines
    assert ["val/acc", "0.9123", "0.98 *"] in lines
    assert ["test/acc", "0.905", "-"] in lines
    assert not [line for line in lines if line[0] == "data.batch_size"]


def test_diff_tells_null_from_absent(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path, "a", settings={"model.drop": None})
    write_run(tmp_path, "b", settings={"model.drop": ...})
    diff_runs(["a", "b"], str(tmp_path))
    assert "model.drop  null  -" in capsys.readouterr().out


def test_diff_of_equal_settings_says_so(root: str, capsys: Captured) -> None:
    diff_runs(["aaaa", "aaaa"], root)
    captured = capsys.readouterr()
    assert captured.err == "Their settings are the same.\n"
    assert "*" not in captured.out


def test_diff_as_json_says_which_are_best(root: str, capsys: Captured) -> None:
    diff_runs(["aaaa", "bbbb", "cccc"], root, "json")
    record = json.loads(capsys.readouterr().out)
    assert record["settings"] == {"model.lr": [0.1, 0.01, 9.0]}
    assert record["scores"]["val/acc"] == {"values": [0.9123456, 0.98, None], "best": [1]}
    assert record["scores"]["val/loss"]["values"] == [None, 0.07, None]


def test_diff_as_csv_names_the_runs_and_keeps_exact_scores(root: str, capsys: Captured) -> None:
    diff_runs(["aaaa", "bbbb"], root, "csv")
    title, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert title == [
        "section",
        "field",
        "digits/cnn/lr=0.1-aaaa/seed=0/v1",
        "digits/cnn/lr=0.01-bbbb/seed=0/v1",
    ]
    assert ["Scores", "val/acc", "0.9123456", "0.98"] in rows


def test_diff_takes_two_runs(root: str) -> None:
    with pytest.raises(ConfigError, match="two runs or more, but got 1"):
        diff_runs(["aaaa"], root)


def test_diff_as_markdown_has_a_heading_for_each_part(root: str, capsys: Captured) -> None:
    diff_runs(["aaaa", "bbbb"], root, "markdown")
    text = capsys.readouterr().out
    assert "## Settings\n\n|  | A | B |\n" in text
    assert "| model.lr | 0.1 | 0.01 |" in text


def test_path_prints_the_path_and_nothing_else(root: str, capsys: Captured) -> None:
    path_of_run("last", root)
    captured = capsys.readouterr()
    assert captured.out == f"{Path(root, 'digits/cnn/lr=9-cccc/seed=0/v1')}\n"
    assert captured.err == ""


def test_path_finds_a_checkpoint(root: str, capsys: Captured) -> None:
    path_of_run("bbbb", root, checkpoint="best")
    assert Path(capsys.readouterr().out.strip()).name == "best-epoch=7.ckpt"


def test_path_of_a_checkpoint_that_is_not_there_is_refused(root: str) -> None:
    with pytest.raises(CheckpointError, match=r"The run 'digits/.*' \(failed\) has no best checkpoint on disk."):
        path_of_run("cccc", root, checkpoint="best")


def test_a_run_that_does_not_exist_is_refused(root: str) -> None:
    with pytest.raises(NotFoundError, match="No run 'zzzz' among the 3 below"):
        show_run("zzzz", root)


def test_adopted_runs_are_listed_with_the_rest(tmp_path: Path, capsys: Captured) -> None:
    old = tmp_path / "lightning_logs" / "version_0"
    old.mkdir(parents=True)
    (old / "hparams.yaml").write_text("lr: 0.02\n")
    (old / "metrics.csv").write_text("epoch,step,val_acc\n0,10,0.5\n")
    root = str(tmp_path / "results")
    adopt_runs(str(tmp_path / "lightning_logs"), root)
    assert capsys.readouterr().err == f"Adopted 1 run of '{tmp_path / 'lightning_logs'}' into '{root}'.\n"
    list_runs(root, columns=["status"])
    assert capsys.readouterr().out.split() == ["status", "adopted"]
    path_of_run("last", root)
    assert Path(capsys.readouterr().out.strip()) == old
