"""Batches of predictions become rows, where they are a table."""

from pathlib import Path
from typing import Any

import pytest
import torch

from runmodel_ext.callbacks import PredictionWriter
from runmodel_ext.callbacks.prediction_writer import as_rows


@pytest.mark.parametrize(
    ("prediction", "rows"),
    [
        (torch.tensor([1.5, 2.5]), [{"prediction": 1.5}, {"prediction": 2.5}]),
        (torch.tensor([[1], [2]]), [{"prediction": 1}, {"prediction": 2}]),
        (torch.tensor([[1, 2]]), [{"prediction.0": 1, "prediction.1": 2}]),
        ({"a": torch.tensor([True, False]), "b": None}, [{"a": True}, {"a": False}]),
        ({"a": ["x", "y"], "b": (1, 2)}, [{"a": "x", "b": 1}, {"a": "y", "b": 2}]),
        (
            {"a": torch.tensor([0.1, float("nan")], dtype=torch.float64)},
            [{"a": 0.1}, {"a": pytest.approx(float("nan"), nan_ok=True)}],
        ),
        ({"a": torch.tensor([0.1], dtype=torch.bfloat16)}, [{"a": 0.100097656}]),
    ],
)
def test_what_is_a_table_becomes_rows(prediction: Any, rows: list[dict[str, Any]]) -> None:
    places = list(range(5, 5 + len(rows)))
    expected = [{"index": place, **row} for place, row in zip(places, rows, strict=True)]
    assert as_rows(prediction, places) == expected


@pytest.mark.parametrize(
    "prediction",
    [
        "text",
        None,
        3.0,
        torch.tensor(1.0),
        torch.zeros(2, 3, 4),
        {},
        {"a": torch.zeros(2), "b": torch.zeros(3)},
        {"a": {"b": torch.zeros(2)}},
        [torch.zeros(2), torch.zeros(2)],
        (torch.zeros(2), torch.zeros(2)),
        {"a": [object(), object()]},
    ],
)
def test_what_is_no_table_becomes_none(prediction: Any) -> None:
    assert as_rows(prediction, [0, 1]) is None


def test_without_places_the_index_is_empty() -> None:
    assert as_rows(torch.tensor([1, 2]), None) == [{"index": "", "prediction": 1}, {"index": "", "prediction": 2}]


def test_more_places_than_samples_are_no_table() -> None:
    assert as_rows(torch.tensor([1, 2]), [0, 1, 2]) is None


class Ranks:
    """As much of a Trainer of several ranks as a writer sees."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank = rank
        self.world_size = world_size
        self.is_global_zero = rank == 0
        self.strategy = self

    def barrier(self, name: str) -> None:
        """All ranks are here."""


def test_the_parts_of_all_ranks_become_one_table_in_order(tmp_path: Path) -> None:
    for rank in (1, 0):
        writer = PredictionWriter(tmp_path)
        trainer: Any = Ranks(rank, 2)
        places = [rank, rank + 2] if rank == 0 else [1, 0]  # the sampler pads with a sample that rank 0 had
        values = torch.tensor([float(place) for place in places])
        writer.write_on_batch_end(trainer, None, values, places, None, 0, 0)  # type: ignore[arg-type]
        if rank == 0:
            writer.on_predict_end(trainer, None)  # type: ignore[arg-type]
    assert (tmp_path / "predictions.csv").read_text() == ("dataloader,index,prediction\n0,0,0.0\n0,1,1.0\n0,2,2.0\n")
    assert not list(tmp_path.glob("*rank*"))
