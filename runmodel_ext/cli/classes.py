"""Classes and objects in the words of a configuration, the same on every machine."""

import functools
import importlib
import inspect
import sys
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse.typing import register_type

from runmodel_ext.errors import ConfigError

_SCALARS = (str, int, float, bool, type(None), Enum, Path)

# A class of the script that is run cannot be imported again by its path without running the script twice.
_known: dict[str, Any] = {}


def class_path(cls: Any) -> str:
    """The one import path of a class, the same however it was written.

    A class of the script that is run belongs to the script's file, not to ``__main__``.

    Example:
        >>> from torch.optim import Adam
        >>> class_path(Adam)
        'torch.optim.adam.Adam'
    """
    module = cls.__module__ or "builtins"
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else module
    path = f"{module}.{cls.__qualname__}"
    _known[path] = cls
    return path


def import_class(path: str) -> Any:
    """The class, or the function that makes one, that an import path names.

    Raises:
        ConfigError: If nothing of that name can be imported.
    """
    if path in _known:
        return _known[path]
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):  # a class may stand inside a class
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        try:
            return functools.reduce(getattr, parts[cut:], found)
        except AttributeError:
            break
    raise ConfigError(f"The class '{path}' cannot be imported. Check its spelling, and that its module is on the path.")


def canonical_classes(value: Any) -> Any:
    """A nested configuration with each class under its one import path; classes that are gone keep theirs."""
    if is_spec(value):
        inner = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
        try:
            path = class_path(import_class(value["class_path"]))
        except ConfigError:
            path = value["class_path"]
        return {"class_path": path, "init_args": canonical_classes(inner)}
    if isinstance(value, Mapping):
        return {key: canonical_classes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical_classes(item) for item in value]
    return value


def is_spec(value: Any) -> bool:
    """Whether a value is a class with its arguments, as a configuration writes one."""
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def described(value: Any) -> Any:
    """A value of any kind in plain words, the same in every process: a class by its path, an object by its class
    and those arguments that it keeps.

    Example:
        >>> described(torch.nn.Dropout(0.25))
        {'class_path': 'torch.nn.modules.dropout.Dropout', 'init_args': {'p': 0.25, 'inplace': False}}
    """  # noqa: D205
    if isinstance(value, Namespace):
        return {key: described(item) for key, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(map(described, value)) if type(value) in (list, tuple, set, frozenset) else value
    if isinstance(value, (torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) or inspect.isroutine(value):
        return class_path(value)
    if isinstance(value, functools.partial):
        return {"class_path": class_path(value.func), "init_args": described(value.keywords)}
    if isinstance(value, (*_SCALARS, Number, bytes, timedelta)):
        return value
    return {"class_path": class_path(type(value)), "init_args": _kept_arguments(value)}


def register_torch_types() -> None:
    """Let devices and dtypes be written as text: in a file, an option, a digest."""
    register_type(torch.device, str, torch.device, fail_already_registered=False)
    register_type(
        torch.dtype,
        lambda kind: str(kind).removeprefix("torch."),
        lambda name: getattr(torch, name),
        fail_already_registered=False,
    )


def _kept_arguments(value: Any) -> dict[str, Any]:
    try:
        names = list(inspect.signature(type(value)).parameters)
    except (TypeError, ValueError):  # a class written in C may not tell
        return {}
    kept = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {name: item for name, item in kept.items() if isinstance(item, _SCALARS)}
