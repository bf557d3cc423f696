"""The record of one run: what training left on disk, as plain objects."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from runmodel_ext.errors import NotFoundError, RecordError
from runmodel_ext.runs.locks import is_held
from runmodel_ext.runs.metrics import Row, read_curve

Mode = Literal["min", "max"]

SCHEMA = 1
RECORD = "run.json"
CONFIG = "config.yaml"
LOCK = ".lock"


@dataclass(frozen=True)
class Score:
    """One number, which way is up, and where it was reached.

    Args:
        value: The number.
        mode: ``"max"`` where higher is better, ``"min"`` where lower is, ``None`` where nobody said.
        epoch: The epoch in which it was reached, counted from 0; ``None`` for a test.
        step: The number of optimizer steps behind it; ``None`` for a test.
        source: The attempt that measured it, such as ``"fit-1"`` or ``"test-2"``.
        checkpoint: The checkpoint that was evaluated, relative to the run; ``None`` while fitting.
    """

    value: float
    mode: Mode | None = None
    epoch: int | None = None
    step: int | None = None
    source: str = ""
    checkpoint: str | None = None

    def beats(self, other: "Score") -> bool:
        """Whether this score is strictly better than ``other``; a number beats ``nan``.

        Raises:
            ValueError: If nobody said which way is better, or the two disagree.

        Example:
            >>> Score(0.9, "max").beats(Score(0.8, "max")), Score(0.9, "min").beats(Score(0.8, "min"))
            (True, False)
        """
        if self.mode is None or self.mode != other.mode:
            raise ValueError(f"Scores compare only in one direction, but these have {self.mode!r} and {other.mode!r}.")
        if math.isnan(self.value) or math.isnan(other.value):
            return math.isnan(other.value) and not math.isnan(self.value)
        return self.value > other.value if self.mode == "max" else self.value < other.value

    @classmethod
    def from_record(cls, entry: Mapping[str, Any]) -> "Score":
        """The score that a record's entry describes."""
        keys = ("mode", "epoch", "step", "checkpoint")
        return cls(value=float(entry["value"]), source=entry.get("from", ""), **{k: entry.get(k) for k in keys})


class Run:
    """One run, read from its directory; reading never writes.

    Args:
        path: The run's directory.
        record: The content of its ``run.json``.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
        self.record = record

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Read the run that lies in ``path``.

        Raises:
            NotFoundError: If there is no run in it.
            RecordError: If its ``run.json`` is damaged, or of a newer version of the package.
        """
        path = Path(path)
        return cls(path, read_record(path / RECORD))

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status})"

    @property
    def name(self) -> str:
        """The path relative to the root, with forward slashes."""
        return str(self.record["name"])

    @property
    def digest(self) -> str:
        """The digest of all settings that decide the results, 52 characters."""
        return str(self.record["digest"])

    @property
    def seed(self) -> int | None:
        """The seed; ``None`` where nothing was seeded."""
        return self.record.get("seed")

    @property
    def version(self) -> int:
        """The number of this run among those of the same configuration and seed, from 1."""
        return int(self.record.get("version", 1))

    @property
    def live(self) -> bool:
        """Whether a living process is training this run."""
        return self.record["status"] == "running" and is_held(self.path / LOCK)

    @cached_property
    def status(self) -> str:
        """``running``, ``finished``, ``interrupted``, ``failed`` or ``adopted``, as it is now.

        A run whose record says ``running`` while no process holds its lock was killed: it reads as ``interrupted``,
        or as ``failed`` where one of its ranks left an error.
        """
        stored = str(self.record["status"])
        if stored != "running" or self.live:
            return stored
        return "failed" if self.rank_error() else "interrupted"

    @property
    def reason(self) -> str | None:
        """Why the run ended, in one line; ``None`` while it runs or where it finished."""
        stored = self.record.get("reason")
        if stored is None and self.record["status"] == "running" and not self.live:
            return self.rank_error() or "the process was killed"
        return stored

    def rank_error(self) -> str | None:
        """What the first rank that died of an error wrote before it did."""
        attempts = [entry["folder"] for entry in self.attempts if entry["kind"] == "fit"]
        notes = sorted((self.path / attempts[-1]).glob("rank-*.error")) if attempts else []
        return notes[0].read_text(encoding="utf-8").strip() if notes else None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results: dotted keys and plain values."""
        return dict(self.record.get("settings") or {})

    @property
    def other_settings(self) -> dict[str, Any]:
        """What was left out of the digest: devices, loggers, workers, and the like."""
        return dict(self.record.get("other_settings") or {})

    @property
    def changes(self) -> list[str]:
        """The keys of :attr:`settings` that differ from the class defaults."""
        return list(self.record.get("changes") or [])

    @cached_property
    def scores(self) -> dict[str, Score]:
        """The scores by name, each with its direction and where it was reached."""
        return {name: Score.from_record(entry) for name, entry in (self.record.get("scores") or {}).items()}

    @property
    def monitor(self) -> str | None:
        """The metric that chooses the best checkpoint."""
        return self.record.get("monitor")

    @property
    def mode(self) -> Mode | None:
        """Which way :attr:`monitor` is better."""
        return self.record.get("mode")

    @property
    def tags(self) -> list[str]:
        """The tags that the user gave."""
        return list(self.record.get("tags") or [])

    @property
    def notes(self) -> str:
        """The notes that the user gave."""
        return str(self.record.get("notes") or "")

    @property
    def created(self) -> str:
        """When the run was begun, ISO 8601 with time zone."""
        return str(self.record.get("created") or "")

    @property
    def ended(self) -> str | None:
        """When training ended, ISO 8601 with time zone."""
        return self.record.get("ended")

    @property
    def seconds(self) -> float | None:
        """How long training took, all attempts together, in seconds."""
        return self.record.get("seconds")

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every fit, test, validate and predict of this run, in order."""
        return list(self.record.get("attempts") or [])

    @property
    def progress(self) -> dict[str, int]:
        """How far training came: epochs and optimizer steps done."""
        return dict(self.record.get("progress") or {})

    @property
    def code(self) -> dict[str, Any] | None:
        """Commit, branch, whether it was dirty, and the patch; ``None`` outside git."""
        return self.record.get("code")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions of python, torch, lightning; the host and its devices."""
        return dict(self.record.get("environment") or {})

    @property
    def parent(self) -> dict[str, Any] | None:
        """The run that this one goes on from."""
        return self.record.get("parent")

    @property
    def home(self) -> Path:
        """The directory that holds the checkpoints: the run's own, or the adopted one."""
        return Path(self.record.get("adopted_from") or self.path)

    @property
    def config_path(self) -> Path:
        """The full configuration, enough to run it again."""
        return self.home / CONFIG

    def checkpoint(self, which: Literal["best", "last"] = "best") -> Path | None:
        """The best or last checkpoint on disk; the last one where no best one was kept.

        Returns:
            Its path, or ``None`` where there is none.
        """
        kept = self.record.get("checkpoints") or {}
        for kind in ("best", "last") if which == "best" else ("last",):
            name = kept.get(kind)
            if name and Path(self.home, name).exists():
                return Path(self.home, name)
            # A run that was killed may have saved one that its record does not name yet.
            found = Path(self.home, "checkpoints").glob(f"{kind}*.ckpt")
            newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
            if newest is not None:
                return newest
        return None

    def metrics(self) -> list[Row]:
        """Every logged value, all attempts read as one curve.

        Where a later attempt repeats steps of an earlier one, the later values stand.
        """
        fits = [entry for entry in self.attempts if entry["kind"] == "fit"]
        return read_curve([(self.home / entry["folder"], int(entry.get("from_step") or 0)) for entry in fits])

    def holder(self) -> str:
        """Who holds the run, for a message: process, host and since when."""
        fits = [entry for entry in self.attempts if entry["kind"] == "fit"]
        last: dict[str, Any] = fits[-1] if fits else {}
        return f"process {last.get('pid')} on {last.get('host')} since {last.get('started')}"


def read_record(path: Path) -> dict[str, Any]:
    """Read a ``run.json``.

    Raises:
        NotFoundError: If there is no such file.
        RecordError: If it is damaged, or was written by a newer version of the package.
    """
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"No run at '{path.parent}'. `runmodel runs list` shows the runs there are.") from None
    except ValueError as error:
        raise RecordError(f"The record '{path}' is not readable JSON ({error}). Restore or remove that run.") from None
    if not isinstance(record, dict) or not {"schema", "name", "digest", "status"} <= record.keys():
        raise RecordError(
            f"The record '{path}' lacks `schema`, `name`, `digest` or `status`. Restore or remove that run."
        )
    if record["schema"] > SCHEMA:
        raise RecordError(
            f"The record '{path}' has schema {record['schema']}, this version reads up to {SCHEMA}. "
            "Upgrade runmodel-ext."
        )
    return record
