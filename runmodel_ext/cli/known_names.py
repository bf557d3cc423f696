"""Names that a user may have meant: arguments of a class, classes of a kind, entries of a folder.

Only what is imported already is looked at.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def arguments_of(path: str) -> list[str]:
    """The arguments of a class or function, with those of the classes to which it hands its ``**kwargs``.

    Example:
        >>> arguments_of("pathlib.Path"), arguments_of("no.such.Class")
        ([], [])
        >>> import collections
        >>> arguments_of("fractions.Fraction")
        []
        >>> import json.decoder
        >>> arguments_of("json.decoder.JSONDecoder")[:2]
        ['object_hook', 'parse_float']
    """
    named = {
        name: None
        for parameters in _signatures(path)
        for name, parameter in parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    return list(named)


def classes_like(kinds: str) -> list[str]:
    """The names of the imported classes derived from those whose import paths stand in a text.

    Example:
        >>> "FileNotFoundError" in classes_like("[<class 'builtins.OSError'>, <class 'NoneType'>]")
        True
    """
    return _names_below(_class_named(path) for path in import_paths(kinds))


def classes_for(path: str, argument: str) -> list[str]:
    """The names of the imported classes that an argument of a class takes, as its annotation says."""
    found = [ps[argument].annotation for ps in _signatures(path) if argument in ps]
    return _names_below(found[:1])


def import_paths(text: str) -> list[str]:
    """The import paths that stand in a text.

    Example:
        >>> import_paths("[list[torch.nn.Module], typing.Any, <class 'NoneType'>]")
        ['torch.nn.Module']
    """
    paths: list[str] = re.findall(r"\b\w+(?:\.\w+)+", text)
    return [path for path in paths if path.partition(".")[0] not in ("typing", "collections")]


def is_dataclass(path: str) -> bool:
    """Whether an import path names a dataclass: a configuration gives its arguments, and no class below it."""
    return dataclasses.is_dataclass(_class_named(path))


def own_path_of(name: str) -> str | None:
    """The import path by which the package itself offers a name; ``None`` where it does not.

    Example:
        >>> own_path_of("gradual_unfreezing"), own_path_of("Adam")
        ('runmodel_ext.gradual_unfreezing', None)
    """
    return f"runmodel_ext.{name}" if name in getattr(sys.modules.get("runmodel_ext"), "__all__", ()) else None


def is_imported(path: str) -> bool:
    """Whether an import path names something that is imported."""
    return _class_named(path) is not None


def members_of(module: str) -> list[str]:
    """What a module that is imported holds."""
    return dir(sys.modules[module]) if module in sys.modules else []


def neighbours_of(path: Path) -> list[str]:
    """The files in the folder of a path, as a user would write them beside it."""
    try:
        return [str(path.parent / entry.name) for entry in sorted(path.parent.iterdir()) if entry.is_file()]
    except OSError:
        return []


def _class_named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _names_below(bases: Iterable[Any]) -> list[str]:
    waiting = [base for base in bases if inspect.isclass(base) and base not in (object, inspect.Parameter.empty)]
    seen: dict[Any, None] = {}
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen[cls] = None
            waiting += type.__subclasses__(cls)
    return [cls.__name__ for cls in seen if not cls.__name__.startswith("_")]


def _signatures(path: str) -> Iterator[Mapping[str, inspect.Parameter]]:
    found = _class_named(path)
    functions = [vars(cls).get("__init__") for cls in found.__mro__] if inspect.isclass(found) else [found]
    for function in functions:
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        yield parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
