"""The logged values of a run: written line by line while it trains, read as one curve."""

import csv
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from runmodel_ext._files import refusals_explained, write_whole

log = logging.getLogger(__name__)

METRICS = "metrics.csv"

#: What was logged at one moment: ``step`` and ``epoch`` where known, and values; the rest is absent.
Row: TypeAlias = dict[str, float]


class MetricsFile:
    """A CSV file that grows by one line at a time and loses none of them.

    Each call of :meth:`append` hands one whole line to the operating system, so that a process that is killed
    afterwards has lost nothing. A value of a new name widens the whole file, in one step. A file that is
    there already is continued. Nothing is created before the first line; one process writes a file at a time.

    Args:
        path: The file, in a directory that is made where it is missing.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = MetricsFile(Path(folder) / "metrics.csv")
        ...     file.append({"step": 0, "train/loss": 0.5})
        ...     file.append({"step": 1, "val/loss": 0.25})
        ...     file.close()
        ...     read_metrics(file.path)
        [{'step': 0, 'train/loss': 0.5}, {'step': 1, 'val/loss': 0.25}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: dict[str, None] = {}
        self._descriptor: int | None = None

    def append(self, row: Mapping[str, float]) -> None:
        """Write one line.

        Args:
            row: The values by name; a name that no earlier line had becomes a new column.

        Raises:
            StorageError: If the disk refuses; the lines written before stay whole.
        """
        if not row:
            return
        if self._descriptor is None:
            self._open()
        if not row.keys() <= self._columns.keys():
            self._widen(row)
        cells = [_spelled(row[name]) if name in row else "" for name in self._columns]
        self._write(",".join(cells).encode() + b"\n")

    def close(self) -> None:
        """Give the file back; a later :meth:`append` goes on with it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        with refusals_explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = _whole_lines(self.path)
            self._columns = dict.fromkeys(_split(content)[0])
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.fstat(self._descriptor).st_size > len(content):
                os.ftruncate(self._descriptor, len(content))

    def _widen(self, row: Mapping[str, float]) -> None:
        fresh = [name for name in row if name not in self._columns]
        _, lines = _split(_whole_lines(self.path))
        columns = self._columns | dict.fromkeys(fresh)
        filler = "," * (len(fresh) if self._columns else 0)
        header = ",".join(_quoted(name) for name in columns)
        text = "".join([header, "\n", *(f"{line}{filler}\n" for line in lines)])
        write_whole(self.path, text.encode("utf-8", "surrogateescape"))
        self.close()
        with refusals_explained(self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._columns = columns

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        with refusals_explained(self.path):
            written = os.write(self._descriptor, line)
            try:
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
            except OSError:
                # Half a line on a full disk would be glued to the next one.
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise


def read_metrics(path: Path) -> list[Row]:
    """Read the lines of one ``metrics.csv``, Lightning's own included; none where there is no file.

    A last line that was cut short is left out. Anything else that is not a number is left out with a warning.

    Returns:
        One row a line, in the order in which they were written.
    """
    header, lines = _split(_whole_lines(path))
    rows, damaged = [], 0
    for line in lines:
        cells = line.rstrip("\r").split(",")
        row = {name: value for name, text in zip(header, cells, strict=False) if (value := _number(text)) is not None}
        damaged += len(cells) != len(header) or len(row) + cells.count("") < len(cells)
        rows.append(row if len(cells) == len(header) else {})
    if damaged:
        log.warning("%d of %d lines of '%s' are damaged: what is no number is left out.", damaged, len(lines), path)
    return [row for row in rows if row]


def read_curve(parts: Sequence[tuple[Path, int]]) -> list[Row]:
    """Read the attempts of one fit as one curve.

    The step of a row counts from 0, as Lightning's loggers do: what follows the 100th optimizer step,
    validation included, is logged at step 99. An attempt that begins at step 100 thus repeats what earlier
    ones logged at step 100 and later, and its own rows stand in their place.

    Args:
        parts: The attempts in order: the folder of each, and the step at which it began.

    Returns:
        The rows that stand, in the order in which they were written.
    """
    curve: list[Row] = []
    for folder, from_step in parts:
        rows = read_metrics(folder / METRICS)
        curve = [row for row in curve if row.get("step", -1) < from_step] + rows
    return curve


def _whole_lines(path: Path) -> bytes:
    """The content up to the last whole line; empty where there is no file."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    # After a power loss a file may end in half a line, or in zeros where nothing was written yet.
    return content[: content.rfind(b"\n", 0, len(content.rstrip(b"\0"))) + 1]


def _split(content: bytes) -> tuple[list[str], list[str]]:
    """The names of the columns, and the lines below them."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")[:-1]
    reader = csv.reader(_with_ends(lines))
    header = next(reader, [])
    return header, lines[reader.line_num :]


def _with_ends(lines: Sequence[str]) -> Iterator[str]:
    # A name in quotes may span lines.
    return (f"{line}\n" for line in lines)


def _quoted(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"' if not name or any(character in name for character in '",\r\n') else name


def _spelled(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if isinstance(value, int) else repr(float(value))


def _number(text: str) -> float | None:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return None
