"""Values as records hold them: absent ones, equal ones, and names that are nearly right."""

import difflib
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final


class Missing(Enum):
    """The type of :data:`MISSING`."""

    MISSING = "missing"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


#: What stands for a value that a run does not have; ``None`` is a value.
MISSING: Final = Missing.MISSING


def same(left: Any, right: Any) -> bool:
    """Whether two plain values are the same: ``1``, ``1.0`` and ``True`` are three, ``nan`` is itself.

    Example:
        >>> same([1, 2], (1, 2)), same(1, 1.0), same(True, 1), same(float("nan"), float("nan"))
        (True, False, False, True)
    """
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    return type(left) is type(right) and (left == right or (left != left and right != right))


def same_number(left: Any, right: Any) -> bool:
    """Whether two values are the same, numbers compared by value.

    Example:
        >>> same_number(1, 1.0), same_number(True, 1)
        (True, False)
    """
    if is_number(left) and is_number(right):
        return bool(left == right or (left != left and right != right))
    return same(left, right)


def is_number(value: Any) -> bool:
    """Whether a value counts something; a truth value does not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def did_you_mean(wanted: str, names: Iterable[str], count: int = 3) -> str:
    """A sentence that offers the nearest names, or nothing where none is near.

    Example:
        >>> did_you_mean("val/ac", ["val/acc", "val/mae", "model.lr"])
        " Did you mean 'val/acc' or 'val/mae'?"
        >>> did_you_mean("x", ["val/acc"])
        ''
    """
    near = difflib.get_close_matches(wanted, list(dict.fromkeys(names)), n=count, cutoff=0.6)
    if not near:
        return ""
    *most, last = (f"'{name}'" for name in near)
    return f" Did you mean {', '.join(most)} or {last}?" if most else f" Did you mean {last}?"
