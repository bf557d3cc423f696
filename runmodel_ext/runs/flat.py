"""A configuration as flat dotted keys and plain values, for people, filters and differences."""

import datetime
import json
import numbers
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from runmodel_ext.runs.canonical import canonical, canonical_json, inner_key

_SEGMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^."])+')
_NEEDS_QUOTES = re.compile(r'[\s."#\\]|[^\x20-\x7e\w]|^$')
_CLASS_SPEC = {"class_path", "init_args", "dict_kwargs"}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as flat dotted keys, for people, filters and differences.

    A class and its arguments become ``key`` and ``key.argument``. In a list of classes each stands
    under its own name, the second of a name as ``Name#2``. Other lists are values. A part of a key that
    holds a dot or another sign with a meaning is quoted, as in TOML.

    Raises:
        ConfigError: If a value is of a type that a configuration cannot hold.

    Example:
        >>> stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"patience": 3}}
        >>> flatten({"trainer": {"callbacks": [stop], "betas": (0.9, 0.99)}, "lr": {"head.*": 0.1}})
        {'trainer.callbacks.EarlyStopping': 'lightning.pytorch.callbacks.EarlyStopping',
         'trainer.callbacks.EarlyStopping.patience': 3,
         'trainer.betas': [0.9, 0.99],
         'lr."head.*"': 0.1}
    """
    flat: dict[str, Any] = {}
    for name, value in _named_entries(config):
        for key, leaf in _leaves(name, value):
            flat[_unused(key, flat)] = leaf
    return flat


def split_key(key: str) -> list[str]:
    """The parts of a flat key; a dot within quotes does not divide it.

    Example:
        >>> split_key('model.lr."head.*"')
        ['model', 'lr', '"head.*"']
    """
    return _SEGMENT.findall(key)


def plain(value: Any, key: str = "") -> Any:
    """``value`` as plain JSON shows it: lists for tuples and sets, text for enums, paths and timedeltas.

    Raises:
        ConfigError: If the type of a value is one that a configuration cannot hold.

    Example:
        >>> plain((1, {"b", "a"}, datetime.timedelta(minutes=5)))
        [1, ['a', 'b'], '0:05:00']
    """
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for name, item in value.items():
            result[_unused(str(plain(name, key)), result)] = plain(item, inner_key(key, name))
        return result
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [plain(item, key) for item in sorted(value, key=lambda item: canonical_json(item, key))]
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and not isinstance(value, Enum):
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, (Enum, numbers.Integral)):
        return float(canonical(value, key)["$float"])
    return canonical(value, key)


def _is_class_spec(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("class_path"), str)
        and value.keys() <= _CLASS_SPEC
        and all(isinstance(value.get(name) or {}, Mapping) for name in ("init_args", "dict_kwargs"))
    )


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if _is_class_spec(value):
        yield key, value["class_path"]
        for arguments in (value.get("init_args"), value.get("dict_kwargs")):
            yield from _below(key, _named_entries(arguments or {}))
    elif isinstance(value, Mapping) and value:
        yield from _below(key, _named_entries(value))
    elif isinstance(value, (list, tuple)) and value and all(map(_is_class_spec, value)):
        yield from _below(key, _named_classes(value))
    else:
        yield key, plain(value, key)


def _below(key: str, entries: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for name, value in entries:
        yield from _leaves(f"{key}.{name}", value)


def _named_entries(value: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        yield _part(str(plain(name))), item


def _named_classes(specs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    taken: set[str] = set()
    for spec in specs:
        name = _unused(_part(spec["class_path"].rpartition(".")[2]), taken)
        taken.add(name)
        yield name, spec


def _part(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) if _NEEDS_QUOTES.search(name) else name


def _unused(name: str, taken: Container[str]) -> str:
    number = 1
    candidate = name
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    return candidate
