"""Runs that plain Lightning left behind, recorded beside the others; nothing of theirs is touched."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from runmodel_ext._files import refusals_explained, write_json
from runmodel_ext.errors import ConfigError, NotFoundError, RecordError
from runmodel_ext.runs.canonical import SHOWN, digest
from runmodel_ext.runs.flat import flatten
from runmodel_ext.runs.metrics import METRICS, read_metrics
from runmodel_ext.runs.names import safe_component
from runmodel_ext.runs.run import CONFIG, RECORD, SCHEMA, Run, read_record
from runmodel_ext.runs.search import DEFAULT_ROOT
from runmodel_ext.runs.values import same

log = logging.getLogger(__name__)

_FOLDER = "adopted"
_HPARAMS = "hparams.yaml"
_EVENTS = "events.out.tfevents"
_CHECKPOINTS = "checkpoints"
_NAME_LENGTH = 100
#: Keys of LightningCLI that are no settings.
_COMMAND = {"config", "ckpt_path", "seed_everything", "verbose", "weights_only"}
#: Settings of the Trainer that say where and how to run, not what comes out.
_SURROUNDINGS = {
    "accelerator", "barebones", "benchmark", "default_root_dir", "detect_anomaly", "devices",
    "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "fast_dev_run",
    "log_every_n_steps", "logger", "num_nodes", "profiler", "strategy",
}  # fmt: skip


def adopt(source: str | Path, root: str | Path = DEFAULT_ROOT) -> list[Run]:
    """Record every run that Lightning's loggers left below ``source``.

    Each run gets a record of its own below ``<root>/adopted``, which points at the directory where it lies;
    nothing is written there. Settings come from ``config.yaml`` or ``hparams.yaml``, scores are the last
    values of ``metrics.csv`` or of TensorBoard's event files, their direction unknown. Done again, it brings
    the records up to date; tags and notes stay.

    Args:
        source: A directory such as ``lightning_logs``, or one above several.
        root: The directory that holds the records.

    Returns:
        The runs, by name.

    Raises:
        NotFoundError: If there is no run.
        StorageError: If the disk refuses.
    """
    source = Path(source)
    if not source.is_dir():
        raise NotFoundError(f"No directory '{source}' to adopt runs from. Give one such as 'lightning_logs'.")
    found = list(_old_runs(source))
    if not found:
        raise NotFoundError(
            f"No run of Lightning's loggers below '{source}': no hparams.yaml, metrics.csv, event file or "
            "checkpoints/*.ckpt. Give a directory such as 'lightning_logs'."
        )
    return sorted((_adopt_one(old, Path(root)) for old in found), key=lambda run: run.name)


def _old_runs(source: Path) -> Iterator[Path]:
    inside: set[str] = set()
    for folder, folders, files in os.walk(source):
        if RECORD in files:
            folders.clear()
            continue
        # A logger puts further event files into folders of the run; they are no runs.
        is_run = _is_run(Path(folder), files, nested=folder in inside)
        if is_run or folder in inside:
            inside.update(f"{folder}{os.sep}{name}" for name in folders)
        folders[:] = sorted(name for name in folders if name[0] != "." and name != _CHECKPOINTS)
        if is_run:
            yield Path(folder)


def _is_run(folder: Path, files: Iterable[str], nested: bool) -> bool:
    files = set(files)
    if {_HPARAMS, METRICS} & files or (CONFIG in files and folder.name.startswith("version_")):
        return True
    if not nested and any(name.startswith(_EVENTS) for name in files):
        return True
    return any((folder / _CHECKPOINTS).glob("*.ckpt"))


def _adopt_one(old: Path, root: Path) -> Run:
    place = old.resolve()
    identity = digest({"adopted_from": place.as_posix()})
    readable = safe_component(f"{place.parent.name}-{place.name}", _NAME_LENGTH)
    name = f"{_FOLDER}/{readable}-{identity[:SHOWN]}"
    path = root / name
    record = {"schema": SCHEMA, "name": name, "digest": identity, **_recorded(place)}
    try:
        before = read_record(path / RECORD)
        record |= {key: before[key] for key in ("tags", "notes") if key in before}
    except (NotFoundError, RecordError):
        before = None
    if not same(record, before):
        with refusals_explained(path):
            path.mkdir(parents=True, exist_ok=True)
        write_json(path / RECORD, record)
    return Run(path, record)


def _recorded(place: Path) -> dict[str, Any]:
    config = _settings_of(place)
    seed = config.get("seed_everything")
    settings, other_settings = _divided(config)
    rows = read_metrics(place / METRICS)
    times = [entry.stat().st_mtime for entry in _evidence(place)]
    created, ended = _moment(min(times)), _moment(max(times))
    last = {key: max((row[key] for row in rows if key in row), default=-1) for key in ("epoch", "step")}
    fit = {"kind": "fit", "number": 1, "folder": ".", "status": "adopted", "reason": None, "from_step": 0}
    return {
        "seed": seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        "version": 1,
        "status": "adopted",
        "reason": None,
        "created": created,
        "ended": ended,
        "seconds": None,
        "tags": [],
        "notes": "",
        "settings": settings,
        "other_settings": other_settings,
        "changes": [],
        "monitor": None,
        "mode": None,
        "scores": _last_values(rows) if rows else _last_events(place),
        "progress": {key: int(value) + 1 for key, value in last.items() if value >= 0},
        "checkpoints": _checkpoints(place),
        "code": None,
        "environment": {},
        "parent": None,
        "attempts": [{**fit, "started": created, "ended": ended}],
        "adopted_from": str(place),
    }


def _settings_of(place: Path) -> dict[str, Any]:
    """What ``config.yaml`` says, or else ``hparams.yaml``."""
    for file in (place / CONFIG, place / _HPARAMS):
        try:
            content = yaml.load(file.read_bytes(), Loader=_PlainLoader)
        except FileNotFoundError:
            continue
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            log.warning("The settings in '%s' are left out, it is no readable YAML: %s", file, _one_line(error))
            continue
        if isinstance(content, dict) and content:
            return {str(key): value for key, value in content.items()}
    return {}


def _divided(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, and those of them that only say where and how the run ran."""
    named = {key: value for key, value in config.items() if key not in _COMMAND and key[:1] != "_"}
    try:
        flat = flatten(named)
    except (ConfigError, RecursionError) as error:
        log.warning("The settings of an adopted run are left out: %s", _one_line(error))
        return {}, {}
    outer = {key for key in flat if key.startswith("trainer.") and key.split(".")[1] in _SURROUNDINGS}
    settings = {key: value for key, value in flat.items() if key not in outer}
    return settings, {key: value for key, value in flat.items() if key in outer and value is not None}


def _last_values(rows: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    scores = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "epoch"):
                scores[name] = _score(value, row.get("epoch"), row.get("step"), METRICS)
    return _without_placeholder(scores)


def _last_events(place: Path) -> dict[str, Any]:
    """The last value of each scalar in TensorBoard's event files; none where TensorBoard is not installed."""
    if not any(place.glob(f"{_EVENTS}*")):
        return {}
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
    except ImportError:
        log.warning("The scores in '%s' are left out: reading event files takes `pip install tensorboard`.", place)
        return {}
    events = EventAccumulator(str(place), size_guidance={SCALARS: 1}).Reload()
    last = {tag: events.Scalars(tag)[-1] for tag in events.Tags()[SCALARS] if tag != "epoch"}
    return _without_placeholder({tag: _score(event.value, None, event.step, _EVENTS) for tag, event in last.items()})


def _without_placeholder(scores: Mapping[str, Any]) -> dict[str, Any]:
    # Lightning's TensorBoardLogger logs it where nobody named a metric.
    return {name: score for name, score in scores.items() if name != "hp_metric" or score["value"] != -1}


def _score(value: float, epoch: float | None, step: float | None, source: str) -> dict[str, Any]:
    place = {"epoch": epoch, "step": step}
    whole = {key: int(at) if at is not None and math.isfinite(at) else None for key, at in place.items()}
    return {"value": float(value), "mode": None, **whole, "from": source}


def _checkpoints(place: Path) -> dict[str, str | None]:
    kept = sorted((place / _CHECKPOINTS).glob("*.ckpt"), key=lambda file: (file.stat().st_mtime, file.name))
    others = [file for file in kept if not file.stem.startswith("last")]
    last = next((file for file in kept if file.stem == "last"), kept[-1] if kept else None)
    # Of several, nothing but the checkpoint itself would say which is best, and that is not opened here.
    best = others[0] if len(others) == 1 else None
    return {
        "best": best.relative_to(place).as_posix() if best else None,
        "last": last.relative_to(place).as_posix() if last else None,
    }


def _evidence(place: Path) -> list[Path]:
    files = [place / CONFIG, place / _HPARAMS, place / METRICS, *place.glob(f"{_EVENTS}*")]
    return [file for file in [*files, *(place / _CHECKPOINTS).glob("*.ckpt")] if file.is_file()]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _PlainLoader(yaml.SafeLoader):
    """Reads any YAML and makes no objects: what names one becomes its text, a date stays as written."""


def _as_text(loader: _PlainLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode) and tag.endswith("tuple"):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.ScalarNode) and node.value:
        return node.value
    return tag.rpartition(":")[2]


def _as_written(loader: _PlainLoader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _as_text)
_PlainLoader.add_multi_constructor("!", _as_text)
_PlainLoader.add_constructor("tag:yaml.org,2002:timestamp", _as_written)
