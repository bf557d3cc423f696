"""Fields of a run by name, and conditions on them."""

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.run import Run
from runmodel_ext.runs.values import MISSING, is_number, same_number

#: What every run has, by name; all other fields are scores and settings.
FIELDS: dict[str, Callable[[Run], Any]] = {
    "status": lambda run: run.status,
    "seed": lambda run: run.seed,
    "version": lambda run: run.version,
    "name": lambda run: run.name,
    "digest": lambda run: run.digest,
    "created": lambda run: run.created,
    "ended": lambda run: run.ended,
    "seconds": lambda run: run.seconds,
    "tags": lambda run: run.tags,
    "notes": lambda run: run.notes,
    "epoch": lambda run: run.progress.get("epoch"),
    "step": lambda run: run.progress.get("step"),
    "reason": lambda run: run.reason,
    "commit": lambda run: (run.code or {}).get("commit"),
    "parent": lambda run: (run.parent or {}).get("run"),
    "monitor": lambda run: run.monitor,
}

_EXAMPLE = "Write it like 'model.lr<0.01', 'status=finished' or 'name~cnn'."
_CONDITION = re.compile(r"\s*(?P<field>.*?)\s*(?P<operator>==|!=|<=|>=|=|<|>|~)\s*(?P<value>.*?)\s*", re.DOTALL)
_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# As `git` and the names of runs do, a few characters stand for the whole.
_ABBREVIATED = frozenset({"digest", "commit"})
_SHORTEST = 4


def value_of(run: Run, field: str) -> Any:
    """One field of a run.

    Args:
        run: The run.
        field: ``status``, ``seed``, ``created`` and the like (:data:`FIELDS`); the name of a score
            (``"val/acc"``); a setting by its key (``"model.lr"``), or by an end of it that no other setting
            of the run shares (``"lr"``).

    Returns:
        The value; ``None`` where the run has no such field.

    Raises:
        ConfigError: If several settings of the run end so.
    """
    value = look_up(run, field)
    return None if value is MISSING else value


def look_up(run: Run, field: str) -> Any:
    """As :func:`value_of`, but ``MISSING`` where the run has no such field."""
    if field in FIELDS:
        return FIELDS[field](run)
    record = run.record
    scores = record.get("scores") or {}
    if field in scores:
        return float(scores[field]["value"])
    groups = [record.get("settings") or {}, record.get("other_settings") or {}]
    for settings in groups:
        if field in settings:
            return settings[field]
    for settings in groups:
        ends = [key for key in settings if key.endswith(field) and key[: -len(field)].endswith(".")]
        if len(ends) > 1:
            found = ", ".join(f"'{key}'" for key in ends)
            message = f"The field '{field}' fits several settings of '{run.name}': {found}."
            raise ConfigError(f"{message} Write the whole key.")
        if ends:
            return settings[ends[0]]
    return MISSING


def field_names(runs: Iterable[Run]) -> list[str]:
    """All fields that at least one of the runs has: the fixed ones, then scores, then settings."""
    groups = ("scores", "settings", "other_settings")
    found: dict[str, dict[str, None]] = {group: {} for group in groups}
    for run in runs:
        for group in groups:
            found[group].update(dict.fromkeys(run.record.get(group) or ()))
    return list(dict.fromkeys([*FIELDS, *found["scores"], *found["settings"], *found["other_settings"]]))


@dataclass(frozen=True)
class Condition:
    """A question that a run answers with yes or no; made by :func:`parse_condition`.

    Args:
        text: The condition as it was written.
        field: The field asked for, as in :func:`value_of`.
        operator: One of ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` and ``~``.
        words: The right side as text.
        wanted: The right side as the value that it spells; text where it stood in quotes.
    """

    text: str
    field: str
    operator: str
    words: str
    wanted: Any

    def matches(self, run: Run) -> bool:
        """Whether the run fulfils the condition; one that lacks the field fulfils ``!=`` only.

        Raises:
            ConfigError: If the field is ambiguous, or is a number that the condition compares with text.
        """
        found = look_up(run, self.field)
        match self.operator:
            case "=":
                return self._equals(found)
            case "!=":
                return not self._equals(found)
            case "~":
                return any(re.search(self.words, _text(one)) is not None for one in _several(found))
            case _:
                return self._is_ordered(found)

    def _equals(self, found: Any) -> bool:
        if self.field == "tags":
            return self.words in found
        if isinstance(found, str):
            return self._names(found)
        return found is not MISSING and same_number(found, self.wanted)

    def _names(self, found: str) -> bool:
        if self.field in _ABBREVIATED and len(self.words) >= _SHORTEST:
            return found.startswith(self.words)
        shown = found.rsplit(".", 1)[-1] if _CLASS_PATH.fullmatch(found) else found
        return self.words in (found, shown)

    def _is_ordered(self, found: Any) -> bool:
        compare = _ORDERS[self.operator]
        if is_number(found) and is_number(self.wanted):
            return bool(compare(found, self.wanted))
        if is_number(found):
            raise ConfigError(
                f"The condition '{self.text}' asks for an order, but '{self.field}' is {found!r} and "
                f"{self.words!r} is no number. Write a number, or use '=' or '!='."
            )
        # A setting may be a number here and a word there; only what is always text is compared with digits.
        is_text = isinstance(found, str) and (isinstance(self.wanted, str) or self.field in FIELDS)
        return is_text and bool(compare(found, self.words))


def parse_condition(text: str) -> Condition:
    """Read a condition such as ``"model.lr<0.01"``.

    The operators are ``=`` (or ``==``), ``!=``, ``<``, ``<=``, ``>``, ``>=``, and ``~`` for a regular
    expression that is found anywhere. The right side is a number, ``true``, ``false``, ``none``, a list as
    JSON writes it, or text; what stands in quotes is always text. A class is also named by its last part; a
    tag is equal if the run has it; a digest or a commit, if it begins so.

    Raises:
        ConfigError: If it cannot be read, with an example of one that can.

    Example:
        >>> from pathlib import Path
        >>> run = Run(Path("."), {"settings": {"model.network": "my.networks.CNN", "model.lr": 0.01}})
        >>> texts = ["lr<0.1", "lr=1", "network=CNN", "network~N$"]
        >>> [parse_condition(text).matches(run) for text in texts]
        [True, False, True, True]
    """
    parts = _CONDITION.fullmatch(text)
    if parts is None or not parts["field"]:
        missing = "operator (=, !=, <, <=, >, >= or ~)" if parts is None else "field before its operator"
        raise ConfigError(f"The condition '{text}' has no {missing}. {_EXAMPLE}")
    sign = "=" if parts["operator"] == "==" else parts["operator"]
    wanted = parts["value"]
    quoted = len(wanted) > 1 and wanted[0] == wanted[-1] and wanted[0] in "'\""
    if not quoted and wanted[:1] in ("=", "<", ">", "~", "!") and sign != "~":
        raise ConfigError(
            f"The condition '{text}' has no operator '{parts['operator']}{wanted[0]}'; "
            f"there are =, !=, <, <=, >, >= and ~. {_EXAMPLE}"
        )
    if not wanted and sign not in ("=", "!="):
        raise ConfigError(f"The condition '{text}' has nothing after its '{sign}'. {_EXAMPLE}")
    words = wanted[1:-1] if quoted else wanted
    if sign == "~":
        _check_pattern(text, words)
    return Condition(text, parts["field"], sign, words, words if quoted else _typed(words))


def _check_pattern(text: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"The condition '{text}' has no valid regular expression after its '~' ({error}). "
            "Put a backslash before characters that stand for themselves."
        ) from None


def _typed(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _several(found: Any) -> Iterator[Any]:
    if isinstance(found, list):
        yield from found
    elif found is not MISSING and found is not None:
        yield found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
