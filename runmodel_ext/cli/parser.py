"""The parser of ``runmodel fit`` and its siblings: Lightning's, with its traps closed."""

import functools
import inspect
import operator
import os
import re
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from runmodel_ext.cli.classes import register_torch_types
from runmodel_ext.cli.parse_errors import explain, source_of, unknown_variable
from runmodel_ext.errors import ConfigError
from runmodel_ext.runs import DEFAULT_ROOT, DEFAULT_TEMPLATE

_FOREIGN = {"verbose": bool, "return_predictions": bool, "weights_only": bool}
_MODE = "runmodel"  # how configurations and values are read: YAML, with the words that Python lacks


@dataclass
class RunOptions:
    """Where a run lies, what it is called, and what happens when it is there already.

    Args:
        root: The directory under which all runs lie.
        name: The template of a run's path under it. Fields: data, model, changes, digest, seed, version, and any
            setting such as {model.lr}.
        on_existing: What ``fit`` does where the run is there: ``auto`` makes, continues or is done; ``new`` makes
            another version; ``resume`` only continues; ``skip`` leaves it; ``overwrite`` moves it aside;
            ``error`` refuses.
        tags: Words to find the run by.
        notes: A text for the record.
        ignore: Keys that do not decide the results, with shell globs: ``data.num_workers``, ``callbacks.*``.
        aliases: Short names of keys, for the run's name: ``{model.lr: lr}``.
        extend: A finished run to go on with (for short: ``--extend RUN``).
        start: A checkpoint to start from, as ``--ckpt_path`` of ``fit``.
        select: The run to test, validate or predict with: its path, name, digest prefix, or ``last``
            (for short: ``--run RUN``).
        untrained: Evaluate the weights as they are initialised (for short: ``--untrained``).
    """

    root: str = DEFAULT_ROOT
    name: str = DEFAULT_TEMPLATE
    on_existing: Literal["auto", "new", "resume", "skip", "overwrite", "error"] = "auto"
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    ignore: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    extend: str | None = None
    start: str | None = None
    select: str | None = None
    untrained: bool = False


class RunParser(LightningArgumentParser):
    """Lightning's parser, with the ``run`` group.

    - ``limit_train_batches=1`` is one batch, whatever else is installed: whole numbers are tried before fractions.
    - A configuration saved by one command is accepted by the others.
    - A stage of a fine-tuning may say ``except``, which cannot be the name of an argument in Python.
    - An error is one sentence.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_mode": _MODE, **kwargs})
        #: Callbacks with a key of their own; the class is ``None`` where the configuration names it.
        self.callback_classes: dict[str, type[Callback] | None] = {}
        register_torch_types()

    @override
    def add_lightning_class_args(
        self, lightning_class: Any, nested_key: str, subclass_mode: bool = False, required: bool = True
    ) -> list[str]:
        if not (isinstance(lightning_class, type) and issubclass(lightning_class, Trainer)):
            if isinstance(lightning_class, type) and issubclass(lightning_class, Callback):
                self.callback_classes[nested_key] = None if subclass_mode else lightning_class
            return super().add_lightning_class_args(lightning_class, nested_key, subclass_mode, required)
        ambiguous = _whole_or_fraction(lightning_class)
        added: list[str] = self.add_class_arguments(
            lightning_class, nested_key, fail_untyped=False, instantiate=False, sub_configs=True, skip=set(ambiguous)
        )
        for name, parameter in ambiguous.items():
            self.add_argument(
                f"--{nested_key}.{name}",
                type=_whole_numbers_first(parameter.annotation),
                default=parameter.default,
                help=f"As `{name}` of Trainer; a whole number counts, a fraction is a share.",
            )
        self._need_no_save_dir(f"{nested_key}.logger")
        return [*added, *(f"{nested_key}.{name}" for name in ambiguous)]

    def _need_no_save_dir(self, key: str) -> None:
        # Lightning's loggers ask for a `save_dir`; without one they write into the run. To the parser this is
        # an argument that something else fills in.
        for action in self._actions:
            if action.dest == key and hasattr(action, "sub_add_kwargs"):
                action.sub_add_kwargs.setdefault("linked_targets", set()).add("save_dir")

    @override
    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        added: list[str] = super().add_method_arguments(*args, **kwargs)
        for name, kind in _FOREIGN.items():
            if name not in added:
                self.add_argument(f"--{name}", type=kind | None, default=None, help="For the other commands.")
        return added

    @override
    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        commands = self._subcommands_action
        if commands is not None and self.default_env:
            words = sys.argv[1:] if args is None else args
            _refuse_unknown_variables(
                next((commands.choices[word] for word in words if word in commands.choices), None)
            )
        return super().parse_args(args, *rest, **kwargs)

    @override
    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        before, self._source = self._source, source_of(os.fspath(path))
        try:
            self._refuse_groups_that_are_none(Path(path).read_text(encoding="utf-8"))
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"Problems parsing config: it is no text ({error.reason} at byte {error.start})", error)
        finally:
            self._source = before

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        for refused in (ex, ex.__cause__ if ex else None):
            if isinstance(refused, ConfigError):  # said already, while a configuration was read
                raise refused
        parser = self._parser_of_command(ex)
        prog = re.sub(r" \[options\]", "", parser.prog)
        sentence = explain(message, parser._names(), self._source)
        raise ConfigError(f"{sentence} See `{prog} --help`.") from ex

    _source: str | None = None  # the configuration file that is being read

    def _refuse_groups_that_are_none(self, text: str) -> None:
        """Refuse ``trainer: 3``, which jsonargparse would pass over."""
        try:
            loaded = yaml.safe_load(text)
        except yaml.YAMLError:
            return  # jsonargparse says what is wrong with it
        plain = {name.partition(".")[0] for name in self._names() if "." in name}
        for name in plain.intersection(self.groups or ()):
            value = loaded.get(name) if isinstance(loaded, dict) else None
            if value is not None and not isinstance(value, (dict, str)):
                self.error(f"Parser key \"{name}\":\n  Expected a <class 'dict'>. Got value: {value}")

    def _parser_of_command(self, ex: Exception | None) -> "RunParser":
        named = getattr(ex, "subcommand_parser", None)
        if named is None and self._subcommands_action is not None:
            commands = self._subcommands_action.choices
            named = next((commands[word] for word in getattr(self, "args", ()) if word in commands), None)
        return named or self

    def _names(self) -> list[str]:
        named = (action.dest for action in self._actions if action.option_strings)
        return [name for name in named if name.rpartition(".")[2] != "help"]


def _read(text: str) -> Any:
    return _with_names_of_python(get_loader("yaml")(text))


set_loader(_MODE, _read, exceptions=(yaml.YAMLError,))


def _with_names_of_python(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_names_of_python(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = {"except": "exclude"} if "train" in value and "exclude" not in value else {}
    return {names.get(name, name): _with_names_of_python(item) for name, item in value.items()}


def _refuse_unknown_variables(parser: RunParser | None) -> None:
    if parser is None:
        return
    refused = unknown_variable(os.environ, f"{parser.env_prefix}_".upper(), parser._names())
    if refused:
        raise ConfigError(refused)


def _whole_or_fraction(lightning_class: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(lightning_class).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters = {**inspect.signature(Trainer).parameters, **parameters}  # type: ignore[assignment]
    return {
        name: parameter
        for name, parameter in parameters.items()
        if {int, float} <= set(typing.get_args(parameter.annotation))
    }


def _whole_numbers_first(annotation: Any) -> Any:
    # `typing` remembers Union[float, int] and hands it out for Union[int, float], so that the order which
    # jsonargparse sees depends on what else was imported. `int | float` is not remembered.
    kinds = typing.get_args(annotation)
    ordered = sorted(kinds, key=lambda kind: (kind is not int, kind is not float))
    return functools.reduce(operator.or_, ordered)
