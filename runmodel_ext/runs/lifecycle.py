"""The life of a run: whether a fit makes a new one, goes on with one, or has nothing left to do.

Looking (:func:`look`) is apart from doing (:func:`claim`), so that ``runmodel explain`` can say what a fit would do.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock

from runmodel_ext._files import make_directory, refusals_explained
from runmodel_ext.errors import NotFoundError, RunBusyError, RunExistsError
from runmodel_ext.runs.locks import try_lock
from runmodel_ext.runs.run import LOCK, RECORD, SCHEMA, Run
from runmodel_ext.runs.search import iter_runs, match_run
from runmodel_ext.runs.template import NameTemplate
from runmodel_ext.runs.writer import RunWriter, begin_attempt, command_line, now, remove_attempt, write_new_record

OnExisting = Literal["auto", "new", "resume", "skip", "overwrite", "error"]
Action = Literal["new", "resume", "done", "busy", "exists", "none"]

_FAMILY_PATIENCE = 60.0  # seconds; whoever decides about a family of runs is done in milliseconds


@dataclass(frozen=True)
class Identity:
    """What a configuration is: its digest, its seed, and what its name is made of.

    Args:
        digest: The digest of all that decides the results, 52 characters.
        seed: The seed; ``None`` where nothing is seeded.
        settings: What decides the results, flat.
        other_settings: What does not, flat, without nulls.
        defaults: The class defaults of the settings, flat, where there are any.
        changes: The keys of the settings that differ from them, in the order of the name.
        fields: The fields of the name: data, model, changes, digest, seed.
    """

    digest: str
    seed: int | None
    settings: Mapping[str, Any]
    other_settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    changes: Sequence[str]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """What a fit would find, and do.

    Args:
        action: ``new``, ``resume``, ``done``; or why not: ``busy``, ``exists``, ``none``.
        path: The run's directory, there or to be made.
        version: The run's number among those of the same configuration and seed.
        run: The run that is there already.
        added: Settings that the run was recorded without, all at their class defaults.
    """

    action: Action
    path: Path
    version: int
    run: Run | None = None
    added: Sequence[str] = ()


@dataclass
class Claim:
    """A run that this process may write to, until it lets go or dies.

    Args:
        action: What is done: ``new``, ``resume`` or ``done``.
        run: The run, as it was found or made.
        writer: The writer of this attempt; ``None`` where there is nothing to do.
        made: The directories made for it, deepest first, to be removed if nothing comes of it.
    """

    action: Action
    run: Run
    writer: RunWriter | None = None
    added: Sequence[str] = ()
    made: list[Path] = field(default_factory=list)
    lock: BaseFileLock | None = None

    def release(self) -> None:
        """Let go of the run; a dying process does the same."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def abandon(self) -> None:
        """Undo the claim, before anything came of it: no half-made directory stays."""
        if self.writer is not None and self.action == "new":
            shutil.rmtree(self.run.path, ignore_errors=True)
            self.release()
            for directory in self.made:
                _remove_if_empty(directory)
        elif self.writer is not None:
            remove_attempt(self.writer)
            self.release()


def look(root: Path, template: NameTemplate, identity: Identity, on_existing: OnExisting) -> Look:
    """Say what a fit of this configuration would do; changes nothing."""
    found, added = _existing(root, template, identity)
    newest = found[-1] if found else None
    if on_existing == "new" or (newest is None and on_existing != "resume"):
        return Look("new", *_next_path(root, template, identity, found))
    if newest is None:
        return Look("none", *_next_path(root, template, identity, found))
    action: Action
    if on_existing == "skip":
        action = "done"
    elif on_existing == "error":
        action = "exists"
    elif newest.live:
        action = "busy"
    elif on_existing == "overwrite":
        action = "new"
    else:
        action = "done" if newest.status == "finished" else "resume"
    return Look(action, newest.path, newest.version, newest, added)


def claim(
    root: Path,
    template: NameTemplate,
    identity: Identity,
    on_existing: OnExisting,
    contents: Mapping[str, Any],
) -> Claim:
    """Decide, and take the run: two processes never get the same one.

    Args:
        root: Under which all runs lie.
        template: How they are named.
        identity: What the configuration is.
        on_existing: What to do where the run is there already.
        contents: ``config`` and ``patch`` as text, and more keys for a new record.

    Raises:
        RunBusyError: If a living process holds the run.
        RunExistsError: If it is there, and ``on_existing`` is ``"error"``.
        NotFoundError: If it is not, and ``on_existing`` is ``"resume"``.
        StorageError: If the disk refuses.
    """
    made: list[Path] = []
    family = root / template.family(identity.fields, identity.settings)
    run: Path | None = None
    try:
        with _deciding_about(family, made):
            seen = look(root, template, identity, on_existing)
            _refuse(seen, identity)
            if seen.action == "done":
                assert seen.run is not None
                run = seen.run.path
                return Claim("done", seen.run, added=seen.added)
            run = seen.path
            if seen.action == "resume":
                assert seen.run is not None
                return _take(seen.run, seen.added)
            if seen.run is not None:  # overwrite
                _move_aside(root, seen.run)
            record = new_record(seen.path.relative_to(root).as_posix(), seen.version, identity, contents)
            return _make(seen.path, record, contents, made)
    except BaseException:
        run = None
        raise
    finally:
        for directory in made:  # those made for nothing, where the run lies elsewhere
            if run is None or not run.is_relative_to(directory):
                _remove_if_empty(directory)


def _existing(root: Path, template: NameTemplate, identity: Identity) -> tuple[list[Run], Sequence[str]]:
    family = root / template.family(identity.fields, identity.settings)
    near = [run for run in _runs_in(family) if (run.digest, run.seed) == (identity.digest, identity.seed)]
    if near:
        return sorted(near, key=lambda run: run.version), ()
    everywhere = [run for run in iter_runs(root) if run.seed == identity.seed and run.record["status"] != "adopted"]
    found, added = match_run(identity.digest, identity.settings, identity.defaults, everywhere)
    return sorted(found, key=lambda run: (run.created, run.version)), added


def _runs_in(family: Path) -> Iterator[Run]:
    try:
        entries = sorted(os.scandir(family), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir() and Path(entry.path, RECORD).exists():
            yield Run.read(entry.path)


def _next_path(root: Path, template: NameTemplate, identity: Identity, found: Sequence[Run]) -> tuple[Path, int]:
    version = max((run.version for run in found), default=0) + 1
    while True:
        path = root / template.fill({**identity.fields, "version": version}, identity.settings)
        if not path.exists() or _is_debris(path):
            return path, version
        version += 1


def _refuse(seen: Look, identity: Identity) -> None:
    run = seen.run
    if seen.action == "busy":
        assert run is not None
        raise RunBusyError(
            f"The run '{run.path}' is being trained by {run.holder()}. Wait for it, stop it, or make another version "
            "with `--run.on_existing new`."
        )
    if seen.action == "exists":
        assert run is not None
        raise RunExistsError(
            f"The run '{run.path}' is there already ({run.status}), and `run.on_existing` is 'error'. "
            "Choose 'auto', 'new' or 'overwrite', or another configuration."
        )
    if seen.action == "none":
        raise NotFoundError(
            f"No run of this configuration (digest {identity.digest[:8]}, seed {identity.seed}) is there to resume. "
            "Leave `run.on_existing` at 'auto' to start one."
        )


def _take(run: Run, added: Sequence[str]) -> Claim:
    lock = try_lock(run.path / LOCK)
    if lock is None:
        raise RunBusyError(f"The run '{run.path}' is being trained by {run.holder()}. Wait for it, or stop it.")
    writer = begin_attempt(run.path, "fit", command_line())
    return Claim("resume", Run.read(run.path), writer, added=added, lock=lock)


def _make(path: Path, record: Mapping[str, Any], contents: Mapping[str, Any], made: list[Path]) -> Claim:
    with refusals_explained(path):
        made[:0] = _make_directories(path)
        lock = try_lock(path / LOCK)
    if lock is None:
        raise RunBusyError(f"The directory '{path}' was taken by another process at this moment. Try again.")
    try:
        write_new_record(path, record, contents["config"], contents["patch"])
        writer = begin_attempt(path, "fit", command_line())
    except BaseException:
        lock.release()
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Claim("new", Run.read(path), writer, made=[d for d in made if d != path], lock=lock)


def new_record(name: str, version: int, identity: Identity, contents: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that begins."""
    more = {key: value for key, value in contents.items() if key not in ("config", "patch")}
    return {
        "schema": SCHEMA,
        "name": name,
        "digest": identity.digest,
        "seed": identity.seed,
        "version": version,
        "status": "running",
        "reason": None,
        "created": now(),
        "ended": None,
        "seconds": None,
        "settings": dict(identity.settings),
        "other_settings": dict(identity.other_settings),
        "changes": list(identity.changes),
        "scores": {},
        "progress": {},
        "checkpoints": {},
        "attempts": [],
        **more,
    }


@contextmanager
def _deciding_about(family: Path, made: list[Path]) -> Iterator[None]:
    with refusals_explained(family):
        made[:0] = _make_directories(family)
        lock = try_lock(family / LOCK, patience=_FAMILY_PATIENCE)
    if lock is None:
        raise RunBusyError(f"Another process has been deciding about '{family}' for {_FAMILY_PATIENCE:g} s. Try again.")
    try:
        yield
    finally:
        lock.release()


def _make_directories(path: Path) -> list[Path]:
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    make_directory(path)
    return missing


def _is_debris(path: Path) -> bool:
    # A process that was killed between making the directory and writing the record leaves at most these.
    left_behind = (LOCK, "config.yaml", "code.patch")
    return path.is_dir() and all(e.name in left_behind or e.suffix == ".tmp" for e in path.iterdir())


def _move_aside(root: Path, run: Run) -> None:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
    target = root / ".replaced" / run.name / stamp
    with refusals_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        run.path.rename(target)


def _remove_if_empty(directory: Path) -> None:
    try:
        if list(directory.iterdir()) == [directory / LOCK]:
            (directory / LOCK).unlink()
        directory.rmdir()
    except OSError:
        return  # somebody else uses it by now, which is as good
