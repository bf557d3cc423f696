"""The parser of ``runmodel fit`` and its siblings: Lightning's, with its traps closed."""

import functools
import inspect
import operator
import re
import sys
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from runmodel_ext.runs import DEFAULT_ROOT, DEFAULT_TEMPLATE

_FOREIGN = {"verbose": bool, "return_predictions": bool, "weights_only": bool}
_LONGEST = 600  # characters of an error; a type with a hundred choices would fill the screen


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
    - An error is one sentence.
    """

    @override
    def add_lightning_class_args(
        self, lightning_class: Any, nested_key: str, subclass_mode: bool = False, required: bool = True
    ) -> list[str]:
        if not (isinstance(lightning_class, type) and issubclass(lightning_class, Trainer)):
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
        return [*added, *(f"{nested_key}.{name}" for name in ambiguous)]

    @override
    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        added: list[str] = super().add_method_arguments(*args, **kwargs)
        for name, kind in _FOREIGN.items():
            if name not in added:
                self.add_argument(f"--{name}", type=kind | None, default=None, help="For the other commands.")
        return added

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        prog = re.sub(r" \[options\].*", "", self.prog)
        sys.stderr.write(f"runmodel: {one_sentence(message)} See `{prog} --help`.\n")
        self.exit(2)
        raise AssertionError("exit() returned")


def one_sentence(message: str) -> str:
    """A parser's message of many lines as one line, with its own noise taken out.

    Example:
        >>> one_sentence('Parser key "model":\\n  Problem with given class_path:\\n    - No such class')
        'Parser key "model": Problem with given class_path: No such class.'
    """
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    text = " ".join(line for line in lines if line)
    text = re.sub(r"^error: ", "", text)
    text = text if len(text) <= _LONGEST else text[:_LONGEST].rsplit(" ", 1)[0] + " …"
    return text if text.endswith((".", "?", "!", "…")) else text + "."


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
