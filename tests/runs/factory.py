"""Runs as training leaves them, without training."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "data": "runmodel_ext.data.Digits",
    "data.batch_size": 64,
    "data.image_size": 8,
    "data.validation": 0.15,
    "data.test": 0.15,
    "data.split_seed": 0,
    "model": "runmodel_ext.modules.ClassificationModule",
    "model.class_weights": None,
    "model.label_smoothing": 0.0,
    "model.lr": 0.01,
    "model.network": "runmodel_ext.networks.CNN",
    "model.network.channels": [16, 32],
    "model.network.dropout": 0.1,
    "model.network.width": 32,
    "model.num_classes": 10,
    "model.optimizer": "torch.optim.AdamW",
    "model.optimizer.betas": [0.9, 0.999],
    "model.optimizer.weight_decay": 0.01,
    "model.optimizer.eps": 1e-08,
    "model.scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR",
    "model.scheduler.T_max": 10,
    "model.scheduler.eta_min": 0.0,
    "model.task": "multiclass",
    "trainer.accumulate_grad_batches": 1,
    "trainer.callbacks.0": "lightning.pytorch.callbacks.EarlyStopping",
    "trainer.callbacks.0.min_delta": 0.0,
    "trainer.callbacks.0.mode": "min",
    "trainer.callbacks.0.monitor": "val/loss",
    "trainer.callbacks.0.patience": 3,
    "trainer.gradient_clip_algorithm": None,
    "trainer.gradient_clip_val": None,
    "trainer.limit_train_batches": 1.0,
    "trainer.max_epochs": 10,
    "trainer.max_steps": -1,
    "trainer.precision": "32-true",
}
OTHER_SETTINGS: dict[str, Any] = {
    "data.num_workers": 0,
    "data.pin_memory": False,
    "trainer.accelerator": "auto",
    "trainer.devices": 1,
    "trainer.benchmark": None,
    "trainer.detect_anomaly": False,
    "trainer.enable_checkpointing": None,
    "trainer.log_every_n_steps": 50,
    "trainer.num_nodes": 1,
    "trainer.strategy": "auto",
}


def digest_of(settings: Mapping[str, Any]) -> str:
    """52 characters that depend on the settings, shaped as a run's digest is."""
    content = json.dumps(settings, sort_keys=True).encode()
    return base64.b32encode(hashlib.sha256(content).digest()).decode().lower()[:52]


def record_of(name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A record of about 4 kB; ``settings`` and ``scores`` are laid over the usual ones, other fields replace.

    A setting of ``...`` is left out. A score may be a number alone: then higher is better, unless it is a
    loss.
    """
    settings = {**SETTINGS, **fields.pop("settings", {})}
    settings = {key: value for key, value in settings.items() if value is not ...}
    scores = {"val/acc": 0.98, "val/loss": 0.07, "train/loss": 0.04, **fields.pop("scores", {})}
    digest = fields.pop("digest", None) or digest_of(settings)
    seed, version = fields.get("seed", 0), fields.get("version", 1)
    changed = [key for key in settings if key not in SETTINGS or settings[key] != SETTINGS[key]]
    label = ",".join(f"{key.rsplit('.', 1)[-1]}={settings[key]}" for key in changed[:2]) or "defaults"
    digits = f"digits/classification-cnn/{label}-{digest[:8]}/seed={seed}/v{version}".replace("'", "")
    return {
        "schema": 1,
        "name": name or digits.replace(" ", ""),
        "digest": digest,
        "seed": seed,
        "version": version,
        "status": "finished",
        "reason": None,
        "created": "2026-11-23T07:10:01+00:00",
        "ended": "2026-11-23T07:12:13+00:00",
        "seconds": 12.3,
        "tags": [],
        "notes": "",
        "settings": settings,
        "other_settings": OTHER_SETTINGS,
        "changes": changed,
        "monitor": "val/acc",
        "mode": "max",
        "scores": {key: _score(key, value) for key, value in scores.items() if value is not ...},
        "progress": {"epoch": 10, "step": 230},
        "checkpoints": {"best": "checkpoints/best-epoch=7.ckpt", "last": "checkpoints/last.ckpt"},
        "code": {
            "commit": "0f3c5d1e9a7b2c4d6e8f0a1b2c3d4e5f60718293",
            "branch": "main",
            "dirty": False,
            "patch": None,
            "digest": hashlib.sha256(b"main").hexdigest(),
        },
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "lightning": "2.6.6",
            "runmodel_ext": "0.1.0",
            "host": "node-17.cluster.example",
            "platform": "Linux-6.8.0-45-generic-x86_64-with-glibc2.39",
            "cuda": None,
            "devices": "CPU, 2 cores",
        },
        "parent": None,
        "attempts": [_attempt(1, 0)],
        "adopted_from": None,
        **fields,
    }


def write_run(
    root: Path,
    name: str | None = None,
    *,
    metrics: Mapping[int, list[Mapping[str, float]]] | None = None,
    files: tuple[str, ...] = (),
    **fields: Any,
) -> Path:
    """Write one run below ``root`` and return its directory.

    Args:
        root: The root of runs.
        name: The run's name; by default one made of its settings, seed and version.
        metrics: The rows that each attempt logged, by its number; attempts begin at the first step that they
            logged.
        files: Further files to create, such as ``"checkpoints/last.ckpt"``.
        fields: Fields of the record, see :func:`record_of`.
    """
    if metrics is not None:
        fields["attempts"] = [_attempt(number, int(rows[0]["step"])) for number, rows in metrics.items()]
    record = record_of(name, **fields)
    folder = root / record["name"]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for number, rows in (metrics or {}).items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(repr(row[key]) if key in row else "" for key in columns) for row in rows]
        (folder / f"fit-{number}").mkdir()
        (folder / f"fit-{number}" / "metrics.csv").write_text("\n".join([",".join(columns), *lines, ""]))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"content")
    return folder


def _score(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    mode = "min" if name.endswith("loss") else "max"
    return {"value": value, "mode": mode, "epoch": 7, "step": 161, "from": "fit-1"}


def _attempt(number: int, from_step: int) -> dict[str, Any]:
    return {
        "kind": "fit",
        "number": number,
        "folder": f"fit-{number}",
        "status": "finished",
        "reason": None,
        "command": ["runmodel", "fit", "--config", "configs/digits.yaml"],
        "started": "2026-11-23T07:10:01+00:00",
        "ended": "2026-11-23T07:12:13+00:00",
        "host": "node-17.cluster.example",
        "pid": 4211,
        "from_step": from_step,
        "from_epoch": 0,
        "world_size": 1,
    }
