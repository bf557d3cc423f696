"""`MetricsLogger` keeps every logged value, in files that it never removes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from runmodel_ext.callbacks import MetricsLogger
from runmodel_ext.runs import read_metrics
from tests.cli.tiny import Tiny, TinyData


def written(folder: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in read_metrics(folder / "metrics.csv")]


def test_values_of_any_kind_are_numbers(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    values = {"tensor": torch.tensor(0.5), "array": np.float64(2.5), "count": 3, "infinite": float("inf")}
    logger.log_metrics(values, step=1)
    logger.finalize("success")
    (row,) = written(tmp_path)
    assert {name: row[name] for name in values} == {"tensor": 0.5, "array": 2.5, "count": 3, "infinite": float("inf")}


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,0.5\n"


def test_a_metric_that_comes_later_loses_no_earlier_line(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.log_metrics({"accuracy": 0.25}, step=2)
    logger.log_metrics({"loss": 0.125}, step=3)
    logger.finalize("success")
    rows = [{name: value for name, value in row.items() if value is not None} for row in written(tmp_path)]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "accuracy": 0.25}, {"step": 3, "loss": 0.125}]


def test_a_second_logger_goes_on_with_the_file_of_the_first(tmp_path: Path) -> None:
    for step in (1, 2):
        logger = MetricsLogger(tmp_path)
        logger.log_metrics({"loss": float(step)}, step=step)
        logger.finalize("success")
    assert [row["loss"] for row in written(tmp_path)] == [1.0, 2.0]


def test_hyperparameters_are_taken_and_kept_elsewhere(tmp_path: Path) -> None:
    MetricsLogger(tmp_path).log_hyperparams({"lr": 0.1})
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*logging interval")
def test_it_works_in_a_bare_trainer(tmp_path: Path) -> None:
    class Chatty(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log_dict({"train/a": 1.0, "train/b": 2.0}, on_step=True, on_epoch=True)
            return loss

    module: LightningModule = Chatty()
    logger = MetricsLogger(tmp_path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=2, logger=logger, log_every_n_steps=1, accelerator="cpu", **quiet)
    trainer.fit(module, TinyData())
    rows = written(tmp_path)
    assert [row["step"] for row in rows if row.get("train/a_step") is not None] == list(range(6))
    assert [row["epoch"] for row in rows if row.get("train/b_epoch") is not None] == [0, 1]
    assert trainer.log_dir == str(tmp_path)
