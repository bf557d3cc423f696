import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext.errors import StorageError
from runmodel_ext.runs.metrics import MetricsFile, read_curve, read_metrics

numbers = st.floats(allow_nan=False) | st.integers(-(10**12), 10**12)
rows = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), numbers)


def write(path: Path, *lines: dict[str, float]) -> Path:
    file = MetricsFile(path)
    for line in lines:
        file.append(line)
    file.close()
    return path


def test_nothing_is_created_before_the_first_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "fit-1" / "metrics.csv")
    file.append({})
    file.close()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, max_size=6))
def test_any_rows_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, float]]
) -> None:
    path = write(tmp_path_factory.mktemp("run") / "metrics.csv", *lines)
    read = read_metrics(path)
    assert read == [line for line in lines if line]
    assert [[type(value) for value in row.values()] for row in read] == [
        [type(row[name]) for name in back] for row, back in zip([line for line in lines if line], read, strict=True)
    ]


def test_nan_and_infinity_read_back(tmp_path: Path) -> None:
    (row,) = read_metrics(write(tmp_path / "metrics.csv", {"a": math.nan, "b": math.inf, "c": -math.inf}))
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_every_line_is_on_disk_before_the_next_one(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in range(3):
        file.append({"step": step, "loss": 0.5})
        assert len(read_metrics(file.path)) == step + 1
    file.close()


def test_kill_9_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    script = (
        "import itertools, pathlib, sys\n"
        "from runmodel_ext.runs.metrics import MetricsFile\n"
        "file = MetricsFile(pathlib.Path(sys.argv[1]))\n"
        "for step in itertools.count():\n"
        "    file.append({'step': step, f'column-{step // 50}': step / 7})\n"
        "    print(step, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(333):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    written = [row["step"] for row in read_metrics(path)]
    assert written == list(range(len(written)))
    assert len(written) > (said[-1] if said else 332)


def test_a_new_column_keeps_all_earlier_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "metrics.csv",
        {"step": 0, "loss": 1.0},
        {"step": 1, "val/acc": 0.5},
        {"step": 2, "loss": 0.1},
    )
    assert read_metrics(path) == [
        {"step": 0, "loss": 1.0},
        {"step": 1, "val/acc": 0.5},
        {"step": 2, "loss": 0.1},
    ]
    assert path.read_text() == "step,loss,val/acc\n0,1.0,\n1,,0.5\n2,0.1,\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_continued(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.csv", {"step": 0, "loss": 1.0})
    write(path, {"step": 1, "loss": 0.5}, {"step": 2, "acc": 0.5})
    assert read_metrics(path) == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}, {"step": 2, "acc": 0.5}]


@pytest.mark.parametrize("torn", [b"1,0.", b"1,0.25", b"\0\0\0\0", b"1,0\0\0"])
def test_only_the_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = write(tmp_path / "metrics.csv", {"step": 0, "loss": 1.0})
    with path.open("ab") as file:
        file.write(torn)
    assert read_metrics(path) == [{"step": 0, "loss": 1.0}]
    write(path, {"step": 1, "loss": 0.5})
    assert read_metrics(path) == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]


def test_a_damaged_line_in_between_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n0,1.0\n1\n2,high\n3,0.5\n")
    with caplog.at_level(logging.WARNING):
        assert read_metrics(path) == [{"step": 0, "loss": 1.0}, {"step": 2}, {"step": 3, "loss": 0.5}]
    assert f"2 of 4 lines of '{path}' are damaged: what is no number is left out." in caplog.text


def test_the_file_of_lightnings_logger_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,step,val_loss\r\n0,21,\r\n0,21,0.5\r\n")
    assert read_metrics(path) == [{"epoch": 0, "step": 21}, {"epoch": 0, "step": 21, "val_loss": 0.5}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append({"step": 0})
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(file, "_descriptor", full)
    with pytest.raises(StorageError, match=r"Cannot write '.*metrics.csv': the disk is full\."):
        file.append({"step": 1})
    file.close()


def test_a_place_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "fit-1").write_text("a file")
    with pytest.raises(StorageError, match="a part of the path is a file, not a directory"):
        MetricsFile(tmp_path / "fit-1" / "deeper" / "metrics.csv").append({"step": 0})


def test_a_later_attempt_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    write(
        tmp_path / "fit-1" / "metrics.csv",
        *({"step": step, "loss": 1.0} for step in range(5)),
        {"step": 4, "val": 1.0},
    )
    write(
        tmp_path / "fit-2" / "metrics.csv",
        {"step": 3, "loss": 2.0},
        {"step": 4, "loss": 2.0},
        {"step": 5, "loss": 2.0},
    )
    write(tmp_path / "fit-4" / "metrics.csv", {"step": 5, "loss": 4.0}, {"step": 6, "loss": 4.0})
    parts = [
        (tmp_path / "fit-1", 0),
        (tmp_path / "fit-2", 3),
        (tmp_path / "fit-3", 4),
        (tmp_path / "fit-4", 5),
    ]
    assert [(row["step"], row["loss"]) for row in read_curve(parts[:2])] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
    ]
    assert [row["loss"] for row in read_curve(parts)] == [1, 1, 1, 2, 4, 4]


def test_the_validation_before_a_resumed_step_stays(tmp_path: Path) -> None:
    write(tmp_path / "fit-1" / "metrics.csv", {"step": 21, "val": 0.5}, {"step": 22, "loss": 1.0})
    write(tmp_path / "fit-2" / "metrics.csv", {"step": 22, "loss": 1.0})
    curve = read_curve([(tmp_path / "fit-1", 0), (tmp_path / "fit-2", 22)])
    assert curve == [{"step": 21, "val": 0.5}, {"step": 22, "loss": 1.0}]


def test_attempts_without_metrics_are_an_empty_curve(tmp_path: Path) -> None:
    assert read_curve([(tmp_path / "fit-1", 0)]) == []
