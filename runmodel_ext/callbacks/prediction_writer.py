"""Write predictions as a table, one row a sample."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from runmodel_ext._files import write_whole

KEYS = ("dataloader", "index")


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv`` into a folder, and ``predictions.parquet`` where pyarrow is installed.

    The columns are ``dataloader`` and ``index`` (the sample's place in the data set), then what ``predict_step``
    returned: the entries of a mapping, or ``prediction`` for a single tensor. A tensor of shape ``(batch, k)``
    becomes ``k`` columns ``name.0`` and so on. What is no table of samples is kept as it is,
    as one ``batch-….pt`` a batch. Under several ranks each writes its part, and rank 0 joins them.

    Args:
        folder: The folder of the attempt, such as ``<run>/predict-1``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self._columns: dict[str, None] = dict.fromkeys(KEYS)

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        rows = as_rows(prediction, batch_indices)
        if rows is None:
            name = f"batch-{dataloader_idx}-{batch_idx:06d}-rank{trainer.global_rank}.pt"
            torch.save(prediction, self.folder / name)
            return
        part = self._part(trainer.global_rank)
        new = {name: None for row in rows for name in row if name not in self._columns}
        if new and part.exists():
            raise ValueError(
                f"Batch {batch_idx} of the predictions has the columns {sorted(new)}, which the batches before lack. "
                "Return the same keys for every batch."
            )
        self._columns.update(new)
        with part.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows({"dataloader": dataloader_idx, **row} for row in rows)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("predictions")
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        if trainer.is_global_zero and any(part.exists() for part in parts):
            _join([part for part in parts if part.exists()], self.folder)

    def _part(self, rank: int) -> Path:
        return self.folder / f"predictions.rank-{rank}.csv"


def as_rows(prediction: Any, indices: Sequence[int] | None) -> list[dict[str, Any]] | None:
    """The rows that a batch of predictions makes; ``None`` where it is no table of samples.

    Args:
        prediction: A tensor of shape ``(batch,)`` or ``(batch, k)``, or a mapping of names to such.
        indices: The places of the samples in the data set, length ``batch``; empty or ``None`` where unknown.

    Example:
        >>> as_rows({"prediction": torch.tensor([3, 1]), "score": torch.tensor([0.5, 0.25])}, [7, 9])
        [{'index': 7, 'prediction': 3, 'score': 0.5}, {'index': 9, 'prediction': 1, 'score': 0.25}]
    """
    table = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
    columns: dict[str, list[Any]] = {}
    for name, value in table.items():
        if value is None:
            continue
        if not _is_column(value):
            return None
        columns.update(_columns_of(str(name), value))
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        return None
    length = lengths.pop()
    places: list[int | str] = [*(indices or [])] or [""] * length
    if len(places) != length:  # several rows a sample, or one a batch
        return None
    return [
        {"index": place, **dict(zip(columns, values, strict=True))}
        for place, values in zip(places, zip(*columns.values(), strict=True), strict=True)
    ]


def _is_column(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim in (1, 2)
    return isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value)


def _columns_of(name: str, value: Any) -> Iterator[tuple[str, list[Any]]]:
    if not isinstance(value, Tensor):
        yield name, list(value)
    elif value.ndim == 1:
        yield name, _plain(value)
    elif value.shape[1] == 1:
        yield name, _plain(value[:, 0])
    else:
        yield from ((f"{name}.{place}", _plain(column)) for place, column in enumerate(value.unbind(1)))


def _plain(column: Tensor) -> list[Any]:
    values = column.detach().cpu()
    if not values.is_floating_point() or values.dtype == torch.float64:
        numbers: list[Any] = values.tolist()
        return numbers
    # Nine digits tell any two float32 apart.
    return [float(f"{value:.9g}") for value in values.float().tolist()]


def _join(parts: Sequence[Path], folder: Path) -> None:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    names: dict[str, None] = {}
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names.update(dict.fromkeys(reader.fieldnames or ()))
            for place, row in enumerate(reader):
                # The sampler of several ranks may hand out a sample twice to make the parts equal.
                rows[(row["dataloader"], row["index"] or f"{part.name}:{place}")] = row
    ordered = sorted(rows.values(), key=lambda row: tuple(int(row[key] or 0) for key in KEYS))
    lines = [",".join(names)]
    lines += [",".join(_quoted(row.get(name) or "") for name in names) for row in ordered]
    write_whole(folder / "predictions.csv", "\n".join(lines) + "\n")
    for part in parts:
        part.unlink()
    if find_spec("pyarrow"):
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv(folder / "predictions.csv"), folder / "predictions.parquet")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text
