"""The one writer inside a run's directory."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runmodel_ext._files import refusals_explained, write_json, write_whole
from runmodel_ext.errors import RunBusyError
from runmodel_ext.runs.locks import try_lock
from runmodel_ext.runs.run import RECORD, read_record

_RECORD_LOCK = ".record.lock"
_RECORD_PATIENCE = 30.0  # seconds; an update takes milliseconds, so a longer wait is a stuck file system


def now() -> str:
    """The time now, ISO 8601 in UTC, to the millisecond: of two runs of one second, one is the newer."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def seconds_between(start: str, end: str) -> float:
    """The time from ``start`` to ``end``, both ISO 8601, in seconds.

    Example:
        >>> seconds_between("2026-01-01T00:00:00+00:00", "2026-01-01T00:01:30+00:00")
        90.0
    """
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


class RunWriter:
    """Writes the record of one run: each change whole or not at all, one writer at a time.

    It holds nothing but paths, so that it may travel to a spawned process.

    Args:
        path: The run's directory.
        folder: The folder of the attempt that writes, such as ``"fit-1"``.
    """

    def __init__(self, path: Path, folder: str) -> None:
        self.path = path
        self.folder = folder

    def update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Read the record, let ``change`` alter it, and write it.

        Raises:
            RunBusyError: If another process keeps the record locked.
            StorageError: If the disk refuses; the record stays as it was.
        """
        lock = try_lock(self.path / _RECORD_LOCK, patience=_RECORD_PATIENCE)
        if lock is None:
            raise RunBusyError(f"The record of '{self.path}' was locked for {_RECORD_PATIENCE:g} s. Try again.")
        try:
            record = read_record(self.path / RECORD)
            change(record)
            write_json(self.path / RECORD, record)
        finally:
            lock.release()

    def attempt(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of this attempt in ``record``."""
        entries: list[dict[str, Any]] = record["attempts"]
        return next(entry for entry in entries if entry["folder"] == self.folder)

    def set_scores(self, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Add scores to the record, each as :class:`Score` stores it; earlier ones of that name are replaced."""
        stamped = {name: {**score, "from": self.folder} for name, score in scores.items()}
        self.update(lambda record: record.setdefault("scores", {}).update(stamped))

    def end(self, status: str, reason: str | None = None) -> None:
        """Say how this attempt ended; of a fit, that is how the run stands."""

        def change(record: dict[str, Any]) -> None:
            entry = self.attempt(record)
            entry.update(status=status, reason=reason, ended=now())
            if entry["kind"] == "fit":
                record.update(status=status, reason=reason, ended=entry["ended"])
                record["seconds"] = training_seconds(record)

        self.update(change)


def training_seconds(record: Mapping[str, Any]) -> float:
    """How long all fits of a record took; of a killed one, until it was last heard of."""
    fits = [entry for entry in record["attempts"] if entry["kind"] == "fit"]
    ends = [(entry["started"], entry.get("ended") or entry.get("seen") or entry["started"]) for entry in fits]
    return round(sum(seconds_between(start, end) for start, end in ends), 3)


def begin_attempt(path: Path, kind: str, command: Sequence[str], **details: Any) -> RunWriter:
    """Open the next attempt of a kind in a run: its folder, and its entry in the record.

    Args:
        path: The run's directory; its record exists.
        kind: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        command: What the user typed.
        **details: More for the entry, such as ``from_step``.
    """
    with refusals_explained(path):
        number = _next_folder(path, kind)
    writer = RunWriter(path, f"{kind}-{number}")
    entry = {
        "kind": kind,
        "number": number,
        "folder": writer.folder,
        "status": "running",
        "reason": None,
        "command": list(command),
        "started": now(),
        "ended": None,
        "host": platform.node(),
        "pid": os.getpid(),
        **details,
    }

    def change(record: dict[str, Any]) -> None:
        if kind == "fit":
            _close_dead_attempts(record)
            _remove_debris(path)
            record.update(status="running", reason=None, ended=None)
        record["attempts"].append(entry)

    writer.update(change)
    return writer


def write_new_record(path: Path, record: Mapping[str, Any], config: str, patch: str) -> None:
    """Write what a new run is: its configuration, the patch of its code, and last its record."""
    write_whole(path / "config.yaml", config)
    if patch:
        write_whole(path / "code.patch", patch)
    write_json(path / RECORD, dict(record))


def remove_attempt(writer: RunWriter) -> None:
    """Take back an attempt that never began, with its folder."""
    shutil.rmtree(writer.path / writer.folder, ignore_errors=True)

    def change(record: dict[str, Any]) -> None:
        record["attempts"] = [entry for entry in record["attempts"] if entry["folder"] != writer.folder]
        fits = [entry for entry in record["attempts"] if entry["kind"] == "fit"]
        if fits and writer.folder.startswith("fit-"):
            record.update({key: fits[-1].get(key) for key in ("status", "reason", "ended")})

    writer.update(change)


def command_line() -> list[str]:
    """What the user typed, with the program's bare name."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _next_folder(path: Path, kind: str) -> int:
    number = 1
    while True:
        try:
            (path / f"{kind}-{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return number


def _remove_debris(path: Path) -> None:
    # Half-written files of a killed fit: nobody else writes here while the run and its record are locked.
    for pattern in (".*.tmp", "checkpoints/.*.tmp"):
        for left_behind in path.glob(pattern):
            left_behind.unlink(missing_ok=True)


def _close_dead_attempts(record: dict[str, Any]) -> None:
    # Whoever opens a fit holds the run's lock: an older fit that still says "running" was killed.
    for entry in record["attempts"]:
        if entry["kind"] == "fit" and entry["status"] == "running":
            entry.update(status="interrupted", reason=entry["reason"] or "the process was killed")
