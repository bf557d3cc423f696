"""Configurations of the smallest model with stages in them, and what is built of them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from runmodel_ext.callbacks import StagedFinetuning
from runmodel_ext.cli.parser import RunParser
from runmodel_ext.cli.run_cli import RunCLI
from tests.cli.tiny import DATA, MODEL

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
Build = Callable[..., StagedFinetuning]


def config(stages: Any, trainer: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """A configuration with stages."""
    staged = {"class_path": "runmodel_ext.callbacks.StagedFinetuning", "init_args": {"stages": stages, **arguments}}
    return {
        "model": {"class_path": MODEL, "init_args": {"width": 3}},
        "data": {"class_path": DATA},
        "trainer": {**QUIET, "max_epochs": 4, "callbacks": [staged], **(trainer or {})},
    }


def written(folder: Path, content: dict[str, Any], name: str = "c.yaml") -> Path:
    """A configuration in a file."""
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def in_words(**arguments: Any) -> dict[str, Any]:
    """A stage as a configuration has it."""
    return {"name": "a", "train": "*", **arguments}


def with_lightning(path: Path, *words: str) -> StagedFinetuning:
    """What a plain LightningCLI builds."""
    args = [f"--config={path}", *words]
    return staging(LightningCLI(run=False, args=args, save_config_callback=None, seed_everything_default=0))


def with_ours(path: Path, *words: str) -> StagedFinetuning:
    """What `runmodel fit` builds."""
    built: list[LightningCLI] = []

    class Builds(RunCLI):
        def before_instantiate_classes(self) -> None:
            built.append(self)

        def fit(self, model: object, **kwargs: object) -> None:
            assert built == [self]

    Builds(args=["fit", f"--config={path}", *words])
    return staging(built[0])


BOTH = pytest.mark.parametrize("build", [with_lightning, with_ours])


def staging(cli: LightningCLI) -> StagedFinetuning:
    """The fine-tuning of a CLI's Trainer."""
    (found,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, StagedFinetuning)]
    return found


class _OnlyParsers(RunCLI):
    def parse_arguments(self, parser: object, args: object) -> None:
        raise StopIteration

    def __init__(self) -> None:
        with pytest.raises(StopIteration):
            super().__init__(args=[])


@functools.cache
def parsers() -> tuple[RunParser, RunParser]:
    """The parser of all commands, and that of `fit`."""
    only = _OnlyParsers()
    return only.parser, only.parsers[0]
