"""The readable part of a run's name: labels of keys, spellings of values, safe path components."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.flat import plain, split_key
from runmodel_ext.runs.values import did_you_mean

LIMIT = 120
"""The most bytes that a path component of a name has."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.+=,_-]+")
_UNSAFE_IN_VALUE = re.compile(r"[^A-Za-z0-9.+_-]+")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_CLASS_PATH = re.compile(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ALIAS = re.compile(r"[A-Za-z0-9_.-]+")
_MODEL_NOISE = re.compile(r"^(?:Lightning|Lit)(?=[A-Z])|(?<=.)(?:Lightning)?(?:Module|Model)$")
_DATA_NOISE = re.compile(r"^(?:Lightning|Lit)(?=[A-Z])|(?<=.)(?:Lightning)?(?:DataModule|Data)$")
_LONG_LABEL, _LONG_VALUE, _LONG_LIST = 32, 24, 8


def labels(keys: Iterable[str], chosen: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """A short name for each chosen key: the user's alias, or the shortest suffix that no other key shares.

    Args:
        keys: All flat keys there are, so that a label does not change its meaning from run to run.
        chosen: The keys to name.
        aliases: Names of the user's own, by full key.

    Raises:
        ConfigError: If an alias names a key that is not there, cannot stand in a name, or means two keys.

    Example:
        >>> keys = ["model.lr", "model.head.width", "optimizer.lr"]
        >>> labels(keys, ["model.lr", "model.head.width"], {})
        {'model.lr': 'model.lr', 'model.head.width': 'width'}
        >>> labels(keys, ["model.lr"], {"model.lr": "lr"})
        {'model.lr': 'lr'}
    """
    wanted = list(chosen)
    everything = list(dict.fromkeys([*keys, *wanted]))
    shared = Counter(suffix for key in everything for suffix in suffixes(key))
    short = {key: next((end for end in suffixes(key) if shared[end] == 1), key) for key in everything}
    owners = {label: key for key, label in short.items()}
    for key, alias in aliases.items():
        _check_alias(key, alias, short)
        if owners.setdefault(alias, key) != key:
            other = owners[alias]
            raise ConfigError(f"The alias '{alias}' of `{key}` already means `{other}`. Choose another alias.")
    return {key: aliases.get(key, short[key]) for key in wanted}


def suffixes(key: str) -> list[str]:
    """The dotted ends of a flat key, shortest first; the last is the key itself.

    Example:
        >>> suffixes("model.head.width")
        ['width', 'head.width', 'model.head.width']
    """
    parts = split_key(key)
    return [".".join(parts[start:]) for start in reversed(range(1, len(parts)))] + [key]


def spell(value: Any) -> str:
    """One spelling for a value, of signs that are safe in a file name.

    Example:
        >>> [spell(value) for value in (1e-1, 0.00001, 1.0, 1, True, None, [64, 64], "torch.optim.Adam")]
        ['0.1', '1e-05', '1.0', '1', 'true', 'none', '64+64', 'Adam']
        >>> spell("data/été 1.csv")
        'data_ete_1.csv'
    """
    return _spell(plain(value))


def safe_component(text: str, limit: int = LIMIT) -> str:
    """Any text as one path component that Linux, macOS and Windows take as it is.

    Example:
        >>> [safe_component(text) for text in ("../../x", "CON.txt", "", "lr=0.1, wide", "-1")]
        ['_.._.._x', '_CON.txt', '_', 'lr=0.1,_wide', '_-1']
    """
    safe = _UNSAFE.sub("_", _ascii(text))[:limit].rstrip(".")
    if not safe or safe[0] in ".-" or safe.split(".")[0].lower() in _RESERVED:
        safe = f"_{safe}"[:limit].rstrip(".")
    return safe


def changes_component(changes: Mapping[str, Any], limit: int = LIMIT) -> str:
    """What was changed, as ``label=value`` pairs in the given order.

    Where they take more than ``limit`` bytes, long values are cut (``..`` marks the place), then pairs
    are left out and counted.

    Example:
        >>> changes_component({"lr": 0.01, "width": 64})
        'lr=0.01,width=64'
        >>> changes_component({"lr": 0.01, "widths": [64] * 7, "depth": 3, "dropout": 0.5}, limit=20)
        'lr=0.01,depth=3,+2'
        >>> changes_component({})
        'default'
    """
    if not changes:
        return "default"[:limit]
    written = [(_safe_label(label), spell(value)) for label, value in changes.items()]
    whole = ",".join(f"{label}={value}" for label, value in written)
    if len(whole) <= limit:
        return whole
    pairs = [f"{_cut(label, _LONG_LABEL)}={_cut(value, _LONG_VALUE)}" for label, value in written]
    cut = ",".join(pairs)
    return cut if len(cut) <= limit else _some(pairs, limit)


def data_label(class_path: str | None) -> str:
    """The level of a run's name that says on which data it was trained.

    Example:
        >>> data_label("runmodel_ext.data.Digits"), data_label("my.MNISTDataModule"), data_label(None)
        ('digits', 'mnist', 'no-data')
    """
    return _class_label(class_path, _DATA_NOISE) or ("data" if class_path else "no-data")


def model_label(settings: Mapping[str, Any]) -> str:
    """The level of a run's name that says what was trained: the module's class, and its network's.

    Example:
        >>> model_label({"model": "my.ClassificationModule", "model.network": "runmodel_ext.networks.CNN"})
        'classification-cnn'
        >>> model_label({"model": "my.LitAutoEncoder"})
        'auto-encoder'
    """
    named = [_class_label(settings.get(key), _MODEL_NOISE) for key in ("model", "model.network")]
    return "-".join(label for label in named if label) or "model"


def _check_alias(key: str, alias: str, known: Iterable[str]) -> None:
    names = list(known)
    if key not in names:
        raise ConfigError(f"The alias '{alias}' is for `{key}`, which is not a key here.{did_you_mean(key, names)}")
    if not _ALIAS.fullmatch(alias):
        allowed = "letters, digits, '.', '_' and '-'"
        raise ConfigError(f"The alias {alias!r} of `{key}` cannot stand in a name. Write it with {allowed}.")


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value + 0.0) if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return _join([_spell(item) for item in value[: _LONG_LIST + 1]], len(value))
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            return _spell(value["class_path"])
        pairs = list(value.items())[: _LONG_LIST + 1]
        return _join([f"{_spell(name)}-{_spell(item)}" for name, item in pairs], len(value))
    text = str(value)
    if _CLASS_PATH.fullmatch(text):
        text = text.rpartition(".")[2]
    return _UNSAFE_IN_VALUE.sub("_", _ascii(text)) or "empty"


def _join(parts: list[str], count: int) -> str:
    if count > _LONG_LIST:
        parts = [*parts[: _LONG_LIST - 2], f"{count - _LONG_LIST + 2}more"]
    return "+".join(parts) or "empty"


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _safe_label(label: str) -> str:
    return _UNSAFE_IN_VALUE.sub("_", _ascii(label.replace('"', ""))) or "_"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 2]}.."


def _some(pairs: list[str], limit: int) -> str:
    room = limit - len(f",+{len(pairs)}")
    kept: list[str] = []
    for pair in pairs:
        if len(pair) + bool(kept) <= room:
            room -= len(pair) + bool(kept)
            kept.append(pair)
    return ",".join([*kept, f"+{len(pairs) - len(kept)}"])[:limit]


def _class_label(class_path: Any, noise: re.Pattern[str]) -> str:
    if not isinstance(class_path, str):
        return ""
    name = class_path.rpartition(".")[2]
    while (shorter := noise.sub("", name, count=1)) != name:
        name = shorter
    return re.sub(r"[^a-z0-9]+", "-", _HUMP.sub("-", _ascii(name)).lower()).strip("-")[: LIMIT // 2]
