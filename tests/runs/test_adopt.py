import os
from pathlib import Path
from typing import Any

import pytest

from runmodel_ext.errors import NotFoundError
from runmodel_ext.runs.adoption import adopt
from runmodel_ext.runs.search import find_runs, resolve_run

CONFIG = """\
# lightning.pytorch==2.6.6
seed_everything: 7
trainer:
  max_epochs: 3
  accelerator: cpu
  logger: null
  callbacks:
  - class_path: lightning.pytorch.callbacks.EarlyStopping
    init_args:
      monitor: val_loss
model:
  class_path: my.models.Net
  init_args:
    lr: 0.1
ckpt_path: null
"""
HPARAMS = """\
lr: 0.01
widths: !!python/tuple
- 8
- 16
activation: !!python/name:torch.nn.modules.activation.ReLU ''
path: !!python/object/apply:pathlib.PosixPath
- data
when: 2026-11-23
_instantiator: lightning.pytorch.cli.instantiate_module
"""
METRICS = "epoch,step,train_loss,val_loss\n0,21,,0.5\n0,21,0.7,\n1,43,,0.25\n"


def old_run(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        os.utime(file, (1_750_000_000, 1_750_000_000))
    return folder


def version(root: Path, number: int = 0, **files: str) -> Path:
    usual = {"hparams_dot_yaml": HPARAMS, "metrics_dot_csv": METRICS}
    return old_run(root / "lightning_logs" / f"version_{number}", **(files or usual))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_every_old_run_is_listed_with_the_rest(tmp_path: Path) -> None:
    for number in range(3):
        version(tmp_path, number)
    adopted = adopt(tmp_path / "lightning_logs", tmp_path / "results")
    assert len(adopted) == 3
    listed = find_runs(tmp_path / "results", where=["status=adopted", "lr=0.01"], sort="val_loss")
    assert {run.name for run in listed} == {run.name for run in adopted}
    assert [run.record for run in listed] == [run.record for run in sorted(adopted, key=lambda run: run.name)][::-1]


def test_the_record_says_what_the_old_files_say(tmp_path: Path) -> None:
    old = version(tmp_path)
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.name.startswith(f"adopted/lightning_logs-version_0-{run.digest[:8]}")
    assert run.status == "adopted"
    assert run.record["adopted_from"] == str(old)
    assert run.created == "2025-06-15T15:06:40+00:00"
    assert (run.seed, run.progress) == (None, {"epoch": 2, "step": 44})
    assert {name: (score.value, score.mode, score.epoch, score.step) for name, score in run.scores.items()} == {
        "val_loss": (0.25, None, 1, 43),
        "train_loss": (0.7, None, 0, 21),
    }
    assert [row.get("val_loss") for row in run.metrics()] == [0.5, None, 0.25]


def test_the_objects_of_hparams_are_read_as_text_and_never_made(tmp_path: Path) -> None:
    version(tmp_path)
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.settings == {
        "lr": 0.01,
        "widths": [8, 16],
        "activation": "torch.nn.modules.activation.ReLU",
        "path": "pathlib.PosixPath",
        "when": "2026-11-23",
    }


def test_a_hostile_hparams_runs_nothing(tmp_path: Path) -> None:
    version(tmp_path, hparams_dot_yaml=f"lr: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.settings == {"lr": "os.mkdir"}
    assert not (tmp_path / "made").exists()


def test_the_configuration_of_lightning_cli_comes_first(tmp_path: Path) -> None:
    version(tmp_path, config_dot_yaml=CONFIG, hparams_dot_yaml=HPARAMS)
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.seed == 7
    assert run.settings == {
        "trainer.max_epochs": 3,
        "trainer.callbacks.EarlyStopping": "lightning.pytorch.callbacks.EarlyStopping",
        "trainer.callbacks.EarlyStopping.monitor": "val_loss",
        "model": "my.models.Net",
        "model.lr": 0.1,
    }
    assert run.other_settings == {"trainer.accelerator": "cpu"}


@pytest.mark.parametrize("broken", ["lr: [", "\tlr: 1", "just text", "", "a: &a [*a]"])
def test_a_broken_hparams_costs_only_the_settings(tmp_path: Path, broken: str) -> None:
    version(tmp_path, hparams_dot_yaml=broken, metrics_dot_csv=METRICS)
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.settings == {}
    assert run.scores["val_loss"].value == 0.25


def test_checkpoints_stay_where_they_are(tmp_path: Path) -> None:
    name = "checkpoints__epoch=1-step=44_dot_ckpt"
    old = version(tmp_path, **{name: "weights", "checkpoints__last_dot_ckpt": "weights"})
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.checkpoint("best") == old / "checkpoints" / "epoch=1-step=44.ckpt"
    assert run.checkpoint("last") == old / "checkpoints" / "last.ckpt"


def test_of_several_checkpoints_none_is_called_the_best(tmp_path: Path) -> None:
    old = version(tmp_path, checkpoints__a_dot_ckpt="weights", checkpoints__b_dot_ckpt="weights")
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.record["checkpoints"] == {"best": None, "last": "checkpoints/b.ckpt"}
    assert run.checkpoint("best") == old / "checkpoints" / "b.ckpt"


def test_nothing_is_written_into_the_old_directories(tmp_path: Path) -> None:
    version(tmp_path)
    before = content(tmp_path / "lightning_logs")
    adopt(tmp_path / "lightning_logs", tmp_path / "results")
    assert content(tmp_path / "lightning_logs") == before


def test_adopting_twice_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version(tmp_path, metrics_dot_csv=METRICS + "2,65,,nan\n")
    adopt(tmp_path / "lightning_logs", tmp_path / "results")
    before = content(tmp_path / "results")
    monkeypatch.chdir(tmp_path / "lightning_logs")
    adopt(".", tmp_path / "results")
    assert content(tmp_path / "results") == before


def test_adopting_again_brings_the_record_up_to_date_and_keeps_tags(tmp_path: Path) -> None:
    old = version(tmp_path)
    (first,) = adopt(tmp_path, tmp_path / "results")
    file = first.path / "run.json"
    file.write_text(file.read_text().replace('"tags": []', '"tags": ["paper"]'))
    with (old / "metrics.csv").open("a") as metrics:
        metrics.write("2,65,,0.125\n")
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert (run.path, run.tags, run.scores["val_loss"].value) == (first.path, ["paper"], 0.125)
    assert len(find_runs(tmp_path / "results")) == 1


def test_runs_of_our_own_are_not_adopted(tmp_path: Path) -> None:
    version(tmp_path)
    own = old_run(tmp_path / "results" / "digits" / "v1", run_dot_json="{}", metrics_dot_csv=METRICS)
    adopted = adopt(tmp_path, tmp_path / "results")
    assert len(adopted) == len(adopt(tmp_path, tmp_path / "results")) == 1
    assert not adopted[0].record["adopted_from"].startswith(str(own))


def test_a_project_around_the_logs_is_no_run(tmp_path: Path) -> None:
    version(tmp_path)
    old_run(tmp_path, config_dot_yaml=CONFIG, configs__config_dot_yaml=CONFIG)
    assert [run.record["adopted_from"] for run in adopt(tmp_path, tmp_path / "results")] == [
        str(tmp_path / "lightning_logs" / "version_0")
    ]


def test_an_adopted_run_is_found_by_the_digest_in_its_name(tmp_path: Path) -> None:
    version(tmp_path, 0)
    version(tmp_path, 1)
    first, _ = adopt(tmp_path, tmp_path / "results")
    assert resolve_run(first.name[-8:], tmp_path / "results").path == first.path
    assert resolve_run("version_0", tmp_path / "results").name.startswith("adopted/lightning_logs-version_0")


@pytest.mark.parametrize("make", [True, False])
def test_a_source_without_runs_is_an_error(tmp_path: Path, make: bool) -> None:
    source = tmp_path / "source"
    if make:
        old_run(source, notes_dot_txt="nothing")
    message = "No run of Lightning's loggers below" if make else "No directory '.*source' to adopt runs from"
    with pytest.raises(NotFoundError, match=message):
        adopt(source, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def write_events(folder: Path, **values: float) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for step in range(20):
        for tag, value in values.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value + step)])
            writer.add_event(Event(step=step, wall_time=1e9, summary=summary))
    writer.close()


def test_scores_come_from_event_files_where_there_is_no_csv(tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "version_0"
    write_events(folder, val_loss=0.5, epoch=0)
    write_events(folder / "validation", other=1.0)
    (run,) = adopt(tmp_path, tmp_path / "results")
    scores: dict[str, Any] = {name: (score.value, score.step) for name, score in run.scores.items()}
    assert scores == {"val_loss": (19.5, 19)}


def test_without_tensorboard_the_run_is_adopted_without_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old_run(tmp_path / "version_0", events_dot_out_dot_tfevents_dot_1="")
    module = "tensorboard.backend.event_processing.event_accumulator"
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (run,) = adopt(tmp_path, tmp_path / "results")
    assert run.scores == {}
    assert "reading event files takes `pip install tensorboard`" in caplog.text
