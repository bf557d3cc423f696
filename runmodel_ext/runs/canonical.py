"""The identity of a configuration: its canonical text, and the digest of it."""

import base64
import datetime
import hashlib
import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

from runmodel_ext.errors import ConfigError

SHOWN = 8
"""How many characters of a digest a name shows; the record holds all of them."""

_encode = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_MICROSECOND = datetime.timedelta(microseconds=1)


def digest(config: Mapping[str, Any]) -> str:
    """The identity of a configuration: SHA-256 of its canonical text in 52 lower-case base32 characters.

    Raises:
        ConfigError: If a value has no canonical form.

    Example:
        >>> digest({"model": {"lr": 1e-1}, "data": {}}) == digest({"data": {}, "model": {"lr": 0.1}})
        True
        >>> digest({"model": {"lr": 0.1}})[:SHOWN]
        'uf5xm3ed'
    """
    return base64.b32encode(hashlib.sha256(canonical_json(config).encode("ascii")).digest())[:52].decode().lower()


def canonical_json(config: Any, key: str = "") -> str:
    """The one text that stands for a configuration: ASCII JSON, sorted, without spaces.

    Key order, tuple or list, the order of a set, ``-0.0``, an enum or its name, and a path or its
    POSIX text make no difference. Everything else does, the type of a number included: 1, 1.0,
    ``True`` and ``"1"`` are four values, for Lightning treats them as such.

    Raises:
        ConfigError: If a value has no canonical form, or the configuration contains itself.

    Example:
        >>> canonical_json({"b": (1, 1.0, "1"), "a": None})
        '{"a":null,"b":[1,{"$float":"1.0"},"1"]}'
    """
    try:
        return _encode(canonical(config, key))
    except RecursionError:
        message = "The configuration is nested too deeply, or contains itself. Write it without such a reference."
        raise ConfigError(message) from None


def canonical(value: Any, key: str = "") -> Any:
    """``value`` in terms of JSON, such that two values that differ never meet.

    What JSON does not have is a mapping with one key, a tag that begins with ``$``; a ``$`` in front of
    a key of the user's own is doubled, so that no text can imitate a tag.

    Args:
        value: Nested mappings, lists, tuples, sets, enums, paths, timedeltas, bytes and plain values.
        key: Where the value stands, for the message of an error.

    Raises:
        ConfigError: If the type of a value is none of these; it names the key and the type.

    Example:
        >>> canonical({1: 0.5, "1": {"b", "a"}})
        {'$key:1': {'$float': '0.5'}, '1': {'$set': ['a', 'b']}}
        >>> canonical({"$float": "0.5"})
        {'$$float': '0.5'}
    """
    return _BY_TYPE.get(type(value), _other)(value, key)


def inner_key(key: str, name: Any) -> str:
    """The dotted place of an entry, for messages; a key that is no plain value shows its type.

    Example:
        >>> inner_key("model", "lr")
        'model.lr'
    """
    shown = name if isinstance(name, (str, int, float)) else type(name).__name__
    return f"{key}.{shown}" if key else str(shown)


def _same(value: Any, key: str) -> Any:
    return value


def _text(value: str, key: str) -> Any:
    # JSON writes a pair of surrogates and the character that the pair encodes alike.
    if value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value):
        return value
    return {"$surrogates": value.encode("utf-8", "surrogatepass").hex()}


def _float(value: float, key: str) -> Any:
    return {"$float": repr(value + 0.0)}


def _mapping(value: Mapping[Any, Any], key: str) -> dict[str, Any]:
    result = {}
    for name, item in value.items():
        inner = inner_key(key, name)
        written = _key(name, inner)
        if written in result:
            raise ConfigError(f"`{inner}` is there twice, written with keys of different types. Keep one of them.")
        result[written] = canonical(item, inner)
    return result


def _key(name: Any, key: str) -> str:
    written = canonical(name, key)
    if not isinstance(written, str):
        return f"$key:{_encode(written)}"
    return f"${written}" if written.startswith("$") else written


def _list(value: Sequence[Any], key: str) -> list[Any]:
    return [canonical(item, f"{key}[{index}]") for index, item in enumerate(value)]


def _set(value: Iterable[Any], key: str) -> dict[str, Any]:
    items = {_encode(item): item for item in (canonical(item, key) for item in value)}
    return {"$set": [items[text] for text in sorted(items)]}


def _timedelta(value: datetime.timedelta, key: str) -> dict[str, Any]:
    return {"$microseconds": value // _MICROSECOND}


def _bytes(value: bytes, key: str) -> dict[str, Any]:
    return {"$bytes": value.hex()}


def _other(value: Any, key: str) -> Any:
    content = value.name if isinstance(value, Enum) else value  # a mix of flags may have no name: refused below
    for kind, convert in _BY_BASE:
        if isinstance(content, kind):
            return convert(content, key)
    if isinstance(content, numbers.Real) and not isinstance(content, numbers.Rational):
        number = float(content)
        if number == content or math.isnan(number):
            return _float(number, key)
    where = f"`{key}`" if key else "The configuration"
    kind_name = f"{type(value).__module__}.{type(value).__qualname__}"
    message = (
        f"{where} holds a value of type '{kind_name}', which cannot be part of a run's identity. "
        "Write it as text, a number, a list or a mapping, or as a class path with init_args."
    )
    raise ConfigError(message)


_BY_TYPE: dict[type, Callable[[Any, str], Any]] = {
    str: _text,
    int: _same,
    bool: _same,
    type(None): _same,
    float: _float,
    dict: _mapping,
    list: _list,
    tuple: _list,
    set: _set,
    frozenset: _set,
    bytes: _bytes,
    datetime.timedelta: _timedelta,
}
# numpy registers its whole numbers and floats with `numbers`; a tensor is none of them.
_BY_BASE: tuple[tuple[type, Callable[[Any, str], Any]], ...] = (
    (str, lambda value, key: _text(str.__str__(value), key)),
    (PurePath, lambda value, key: _text(value.as_posix(), key)),
    (numbers.Integral, lambda value, key: int(value)),
    (Mapping, _mapping),
    (list, _list),
    (tuple, _list),
    (set, _set),
    (frozenset, _set),
    (bytes, _bytes),
    (datetime.timedelta, _timedelta),
)
