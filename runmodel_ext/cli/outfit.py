"""What a Trainer is given: loggers and checkpoints that write into the run, and the callbacks that record it."""

import inspect
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO

from runmodel_ext.callbacks import (
    EvaluationRecorder,
    LastCheckpoint,
    MetricsLogger,
    PredictionWriter,
    RunKeeper,
    RunRecorder,
    WholeCheckpointIO,
)
from runmodel_ext.cli.classes import import_class
from runmodel_ext.cli.decisions import Decision
from runmodel_ext.errors import ConfigError
from runmodel_ext.runs import Mode, Run

CHECKPOINTS = "checkpoints"

# Strategies that shard checkpoints write them their own way.
_PLAIN_STRATEGIES = ("auto", "ddp", "single_device")


def keep_inside(trainer: Any, run: Path, folder: str) -> None:
    """Point the loggers and checkpoints of a parsed configuration into the run, where the user chose no place.

    Args:
        trainer: The ``trainer`` namespace of the configuration, which is changed.
        run: The run's directory.
        folder: The folder of the attempt in it.
    """
    trainer["default_root_dir"] = str(run)
    for spec in _specs(trainer.get("logger")):
        _place_logger(spec, run, folder)
    keep_callbacks_inside([(None, spec) for spec in _specs(trainer.get("callbacks"))], [], run)


def keep_callbacks_inside(specs: Iterable[tuple[Any, Any]], instances: Iterable[Any], run: Path) -> None:
    """Point ``ModelCheckpoint`` into the run, where the user chose no place.

    Args:
        specs: Classes and their settings, which are changed; settings that name their class come with ``None``.
        instances: Callbacks that the user's script has made.
        run: The run's directory.
    """
    for cls, settings in specs:
        of_class = cls or _class_of(settings)
        args = settings if cls else settings["init_args"]
        if isinstance(of_class, type) and issubclass(of_class, ModelCheckpoint) and args.get("dirpath") is None:
            args["dirpath"] = str(run / CHECKPOINTS)
    for callback in instances:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run / CHECKPOINTS)


def as_list(value: Any) -> list[Any]:
    """What Trainer takes as nothing, one or several, as a list.

    Example:
        >>> as_list(None), as_list("one"), as_list(("one", "two"))
        ([], ['one'], ['one', 'two'])
    """
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def loggers_of(configured: Any, run: Path, folder: str) -> list[Logger]:
    """The loggers of an attempt: the user's own, or TensorBoard where it is installed; and always a CSV file.

    Args:
        configured: ``trainer.logger`` as it was instantiated: ``None``, a truth value, a logger or several.
        run: The run's directory.
        folder: The folder of the attempt in it.
    """
    loggers: list[Logger] = []
    if configured is None or configured is True:
        if find_spec("tensorboard") or find_spec("tensorboardX"):
            loggers.append(TensorBoardLogger(save_dir=str(run), name="", version=folder, default_hp_metric=False))
    elif isinstance(configured, Iterable):
        loggers.extend(configured)
    elif configured:
        loggers.append(configured)
    return [*loggers, MetricsLogger(run / folder)]


def checkpoints_of(callbacks: list[Callback], recorder: RunRecorder, run: Path) -> list[Callback]:
    """The callbacks that record a run, and keep the checkpoints that the user's own do not: the best, and the last.

    Args:
        callbacks: The user's own.
        recorder: The recorder of the run, which knows the monitored metric.
        run: The run's directory.
    """
    own = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    keeps_last = any(callback.save_last and _is_inside(callback.dirpath, run) for callback in own)
    last = None if keeps_last else LastCheckpoint(run / CHECKPOINTS / "last.ckpt")
    added: list[Callback] = [RunKeeper(recorder, last)]
    monitor = recorder.monitor
    mode = recorder.modes.get(monitor) if monitor is not None else None
    if mode is not None and not any(callback.monitor for callback in own):
        place: dict[str, Any] = {"dirpath": run / CHECKPOINTS, "enable_version_counter": False}
        added.append(ModelCheckpoint(filename="best-{epoch}", monitor=monitor, mode=mode, **place))
    return added


def evaluation_callbacks(decision: Decision, kind: str, model: LightningModule) -> list[Callback]:
    """The callbacks that record an evaluation, and write its predictions.

    Args:
        decision: Where it writes, and what it evaluates.
        kind: ``"test"``, ``"validate"`` or ``"predict"``.
        model: The module, which may say which way its metrics are better.
    """
    added: list[Callback] = []
    if decision.writer is not None:
        shown = _inside_of(Run.read(decision.run_path).home, decision.checkpoint)
        added.append(EvaluationRecorder(decision.writer, score_modes(model), shown))
    if kind == "predict":
        folder = decision.run_path / decision.folder
        folder.mkdir(parents=True, exist_ok=True)
        added.append(PredictionWriter(folder))
    return added


def _inside_of(home: Path, checkpoint: str | None) -> str | None:
    if checkpoint is None or not Path(checkpoint).resolve().is_relative_to(home.resolve()):
        return checkpoint
    return Path(checkpoint).resolve().relative_to(home.resolve()).as_posix()


def monitored(
    model: LightningModule,
    datamodule: LightningDataModule | None,
    trainer: Mapping[str, Any],
    callbacks: list[Callback],
) -> tuple[str | None, Mode | None]:
    """The metric that chooses the best checkpoint, and which way it is better.

    The user's own ``ModelCheckpoint`` says so first, then the module's ``monitor`` and ``mode``, then
    ``EarlyStopping``.

    Raises:
        ConfigError: If the module names a metric, but not which way it is better.
    """
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback.monitor, _mode(callback.mode)
    monitor = getattr(model, "monitor", None)
    if isinstance(monitor, str) and (_validates(model, datamodule, trainer) or monitor.startswith("train")):
        mode = getattr(model, "mode", None) or score_modes(model).get(monitor)
        if mode not in ("min", "max"):
            name = type(model).__name__
            raise ConfigError(
                f"`{name}.monitor` is '{monitor}', but `{name}.mode` is {mode!r}. Set it to 'min' or 'max'."
            )
        return monitor, _mode(mode)
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            return callback.monitor, _mode(callback.mode)
    return None, None


def score_modes(model: LightningModule) -> dict[str, Mode]:
    """Which way each metric is better, as far as the module says so in ``score_modes``."""
    declared = getattr(model, "score_modes", None) or {}
    return dict(declared() if callable(declared) else declared)


def plugins_of(configured: Any, strategy: Any) -> list[Any] | None:
    """The plugins of the Trainer, with checkpoints that are written whole where the strategy writes plain files."""
    own = as_list(configured)
    plain = isinstance(strategy, str) and strategy.split("_find_unused")[0].startswith(_PLAIN_STRATEGIES)
    if plain and not any(isinstance(plugin, CheckpointIO) for plugin in own):
        own.append(WholeCheckpointIO())
    return own or None


def _validates(model: LightningModule, datamodule: LightningDataModule | None, trainer: Mapping[str, Any]) -> bool:
    if trainer.get("limit_val_batches") == 0:
        return False
    of_model = type(model).val_dataloader is not LightningModule.val_dataloader
    of_data = datamodule is not None and type(datamodule).val_dataloader is not LightningDataModule.val_dataloader
    return of_model or of_data


def _is_inside(place: Any, run: Path) -> bool:
    return place is not None and Path(place).resolve().is_relative_to(run.resolve())


def _mode(mode: str) -> Mode:
    return "max" if mode == "max" else "min"


def _specs(value: Any) -> list[Any]:
    several = value if isinstance(value, list) else [value]
    return [spec for spec in several if hasattr(spec, "get") and isinstance(spec.get("class_path"), str)]


def _class_of(spec: Any) -> Any:
    if spec.get("init_args") is None:
        spec["init_args"] = type(spec)()
    return import_class(spec["class_path"])


def _place_logger(spec: Any, run: Path, folder: str) -> None:
    cls = _class_of(spec)
    args = spec["init_args"]
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    def untouched(name: str) -> bool:
        return name in defaults and args.get(name) in (None, defaults[name], inspect.Parameter.empty)

    kind = cls.__name__
    if untouched("save_dir"):
        args["save_dir"] = str(run)
    if kind == "TensorBoardLogger" and untouched("name") and untouched("version"):
        args["name"], args["version"] = "", folder
    elif kind == "CSVLogger" and untouched("name") and untouched("version"):
        # CSVLogger removes a `metrics.csv` that it finds; ours lies in the folder itself.
        args["name"], args["version"] = folder, "csv"
    for name in ("name", "run_name"):
        if kind not in ("TensorBoardLogger", "CSVLogger") and name in defaults and defaults[name] is None:
            args[name] = args.get(name) or "/".join(run.parts[-4:])
