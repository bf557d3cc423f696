"""``runmodel plan``: what a fine-tuning would train, stage by stage, without training it."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from typing_extensions import override

from runmodel_ext._files import make_directory, write_whole
from runmodel_ext._private import parser_of
from runmodel_ext.callbacks import StagedFinetuning
from runmodel_ext.cli.endings import endings_explained
from runmodel_ext.cli.run_cli import RunCLI
from runmodel_ext.errors import ConfigError, ScheduleError
from runmodel_ext.finetuning import Conductor, Stage, described, print_plan, problem_of_strategy, raise_problems

_NONE = (
    "There are no stages to show: the Trainer has no StagedFinetuning among its callbacks. "
    "Add one under `trainer.callbacks`."
)
# One process on the CPU that leaves nothing behind: what trains at which rate is the same on every device.
_HERE: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": None,
    "sync_batchnorm": False,
    "profiler": None,
    "barebones": False,
    "enable_checkpointing": None,
    "enable_progress_bar": None,
    "enable_model_summary": None,
}


class PlanCLI(RunCLI):
    """Builds what ``fit`` builds, goes as far as the fit's start, and prints the plan of its stages."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        text = "A new file for the stages, to be edited and trained with: `stages: FILE`."
        parser.add_argument("--write", type=str | None, default=None, metavar="FILE", help=text)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        own = parser_of(self, "fit")
        own.prog = own.prog.removesuffix("fit") + "plan"
        super().parse_arguments(parser, ["fit", *list(args)[1:]])
        self._file = self._section.pop("write")
        if self._file is not None and (not self._file or Path(self._file).exists()):
            found = f"'{self._file}' is there already" if self._file else "none is named"
            raise ConfigError(f"`--write` needs a new file, but {found}. Choose another name, or remove it.")

    @override
    def before_instantiate_classes(self) -> None:
        self._section["trainer"]["logger"] = None  # some open their files, or a connection, when they are built

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        asked = self._trainer_config()
        raise_problems(_problems_of_strategy(asked.get("strategy")))
        here = {**_HERE, "logger": DummyLogger(), "plugins": [LightningEnvironment()]}
        with _quiet():
            trainer = super().instantiate_trainer(**{**kwargs, **here})
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not _stagings(callbacks) and type(self.model).configure_callbacks is LightningModule.configure_callbacks:
            raise ConfigError(_NONE)
        self._stop = _StopAtStart(counts_steps=_is_alone(asked))
        callbacks.append(self._stop)
        return trainer

    @override
    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Print the plan, and write its stages where that is asked for."""
        data = {name: kwargs[name] for name in ("train_dataloaders", "val_dataloaders", "datamodule") if name in kwargs}
        with _quiet(), endings_explained(Path.cwd(), None), suppress(_PlanIsMade):
            self.trainer.fit(model, **data)
        conductor = self._stop.conductor
        assert conductor is not None
        print_plan(conductor)
        if self._file is not None:
            write_stages(Path(self._file), [planned.stage for planned in conductor.plan.stages])
            count = len(conductor.plan.stages)
            print(
                f"\nWrote {count} stage{'s' * (count != 1)} to '{self._file}'. Edit them, and train with them: "
                f"`stages: {self._from_config(self._file)}` among the arguments of StagedFinetuning."
            )

    def _from_config(self, file: str) -> str:
        """The file as the configuration names it, which reads paths from where it lies itself."""
        configs = [Path(str(config)) for config in self._section.get("config") or () if config is not None]
        return os.path.relpath(file, configs[-1].parent) if configs else file


def write_stages(path: Path, stages: Sequence[Stage]) -> None:
    """Write stages as YAML that a configuration reads back as the same stages.

    Raises:
        ScheduleError: If a stage cannot be written, as where it has a scheduler without an import path.
        StorageError: If the disk refuses.
    """
    plain = [described(stage) for stage in stages]
    for stage, each in zip(stages, plain, strict=True):
        if _read_back(each) != each:
            raise ScheduleError(
                f"Stage '{stage.name}' cannot be written: its `lr_scheduler` is {each['lr_scheduler']!r}, which no "
                "configuration can name. Make it a class or a function of a module."
            )
    title = f"# Stages of a fine-tuning: `stages: {path.name}` among the arguments of StagedFinetuning.\n"
    make_directory(path.parent)
    write_whole(path, title + "".join(_as_yaml(each) for each in plain))


def _as_yaml(plain: Mapping[str, Any]) -> str:
    """A stage with a line for each argument, and what is within it in as few lines as hold it."""
    lines: list[str] = []
    for key, value in plain.items():
        flow = None if isinstance(value, (dict, list)) else False
        text = yaml.safe_dump({key: value}, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=116)
        lines += text.splitlines()
    return "".join(f"{'  ' if number else '- '}{line}\n" for number, line in enumerate(lines))


def _read_back(plain: Mapping[str, Any]) -> dict[str, Any] | None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--stage", type=Stage)
    with suppress(ArgumentError, TypeError, ValueError):
        return described(parser.instantiate_classes(parser.parse_object({"stage": dict(plain)})).stage)
    return None


class _PlanIsMade(Exception):  # noqa: N818  no error: it ends a fit that has come as far as it should
    """The plan is made."""


class _StopAtStart(Callback):
    """Ends a fit as soon as its stages are resolved, before a batch is loaded.

    Args:
        counts_steps: Whether an epoch of this fit has as many steps as one of the fit that is planned.

    Attributes:
        conductor: What would carry the stages out, once they are resolved.
    """

    def __init__(self, counts_steps: bool) -> None:
        self.counts_steps = counts_steps
        self.conductor: Conductor | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        everyone: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        staging = _stagings(everyone)
        if not staging:
            raise ConfigError(_NONE)
        # Lightning lets callbacks that try rates and batch sizes train before all others; nothing may train here.
        first = [*staging, self]
        others = [each for each in everyone if each not in first and not isinstance(each, _WRITERS)]
        trainer.callbacks = [*first, *others]  # type: ignore[attr-defined]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (staging,) = _stagings(trainer.callbacks)  # type: ignore[attr-defined]
        assert staging.conductor is not None
        stages = [planned.stage for planned in staging.conductor.plan.stages]
        counted = trainer.max_steps != -1 or any(stage.until and stage.until.steps for stage in stages)
        if counted and self.counts_steps and trainer.estimated_stepping_batches:  # which asks the data how long it is
            staging.check_length(trainer)
        self.conductor = staging.conductor
        raise _PlanIsMade


_WRITERS = (Checkpoint, ProgressBar, ModelSummary)


def _stagings(callbacks: Sequence[Callback]) -> list[StagedFinetuning]:
    return [callback for callback in callbacks if isinstance(callback, StagedFinetuning)]


def _problems_of_strategy(strategy: Any) -> list[str]:
    """What the fit would say of a strategy that is not used here."""
    if isinstance(strategy, str) and strategy in StrategyRegistry.available_strategies():
        strategy = StrategyRegistry.get(strategy)
    if not isinstance(strategy, Strategy):
        return []
    problem = problem_of_strategy(SimpleNamespace(strategy=strategy))  # type: ignore[arg-type]
    return [problem] if problem else []


def _is_alone(asked: Mapping[str, Any]) -> bool:
    """Whether the fit would have one process, and so as many steps in an epoch as there are here."""
    devices = asked.get("devices") or "auto"
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    only = devices == "auto" and (asked.get("accelerator") == "cpu" or torch.cuda.device_count() <= 1)
    return asked.get("num_nodes") in (None, 1) and (one or only)


@contextmanager
def _quiet() -> Iterator[None]:
    """No advice of Lightning's on devices and loaders, which are not those of the fit."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        log.setLevel(level)
