"""Every logged value, in a CSV file of the attempt."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from runmodel_ext.runs import MetricsFile


class MetricsLogger(Logger):
    r"""Writes ``metrics.csv`` into one folder, a line at a time, so that a killed run keeps all of them.

    Unlike Lightning's ``CSVLogger`` it never removes a file that is there, and it buffers nothing.

    Args:
        folder: The folder of the attempt, such as ``<run>/fit-1``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     logger = MetricsLogger(folder)
        ...     logger.log_metrics({"val/acc": 0.5}, step=3)
        ...     logger.finalize("success")
        ...     (Path(folder) / "metrics.csv").read_text()
        'step,val/acc\n3,0.5\n'
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._file = MetricsFile(self.folder / "metrics.csv")
        self._logged: set[str] = set()

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return self.folder.name

    @property
    @override
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    @override
    def log_dir(self) -> str:
        return str(self.folder)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {name: _number(value) for name, value in metrics.items()}
        self._logged.update(row)
        self._file.append(row if step is None else {"step": step, **row})

    @rank_zero_only
    def end_epoch(self, values: Mapping[str, float], epoch: int, step: int) -> None:
        """Write what an epoch left and nobody logged, because it has fewer batches than ``log_every_n_steps``.

        Args:
            values: The metrics as they stood at the end of the epoch.
            epoch: The epoch, counted from 0.
            step: The last step of the epoch, counted from 0.
        """
        missing = {name: value for name, value in values.items() if name not in self._logged}
        self._logged.clear()
        if missing:
            self._file.append({"step": step, "epoch": epoch, **missing})

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's ``config.yaml`` and ``run.json`` hold every setting."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._file.close()


def _number(value: Any) -> float:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)
