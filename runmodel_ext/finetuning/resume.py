"""A checkpoint of another schedule than the one that goes on with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from runmodel_ext.errors import ScheduleError


def changes_between(saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is different in two schedules, in words.

    Args:
        saved: The stages of a checkpoint, as :func:`~runmodel_ext.finetuning.stages.described` gives them.
        now: The stages that go on with it, likewise.

    Example:
        >>> changes_between([{"name": "head", "lr": 0.1}], [{"name": "head", "lr": 0.2}, {"name": "all"}])
        ["stage 'head': `lr` was 0.1 and is 0.2", "stage 'all' is new"]
        >>> changes_between([{"name": "a", "lr": {"x": 1.0, "*": 2.0}}], [{"name": "a", "lr": {"*": 2.0, "x": 1.0}}])
        ["stage 'a': `lr` was {'x': 1.0, '*': 2.0} and is {'*': 2.0, 'x': 1.0}"]
    """
    before = {str(stage["name"]): stage for stage in saved}
    after = {str(stage["name"]): stage for stage in now}
    changes = []
    for name, stage in after.items():
        if name not in before:
            changes.append(f"stage '{name}' is new")
            continue
        for key in dict.fromkeys([*before[name], *stage]):
            was, is_now = before[name].get(key), stage.get(key)
            if was != is_now or _order(was) != _order(is_now):
                changes.append(f"stage '{name}': `{key}` was {_word(was)} and is {_word(is_now)}")
    changes += [f"stage '{name}' is gone" for name in before if name not in after]
    common = [name for name in after if name in before]
    if common != [name for name in before if name in after]:
        changes.append(f"the order is {', '.join(after)}, and was {', '.join(before)}")
    return changes


def _order(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Mapping) else []  # of a table, in which the first match counts


def stage_to_go_on_with(saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], index: int) -> int:
    """The number, in the present schedule, of the stage in which a checkpoint was saved.

    Raises:
        ScheduleError: If the present schedule has no such stage, or has put one that was over behind it.
    """
    names = [str(stage["name"]) for stage in now]
    name = str(saved[index]["name"])
    if name not in names:
        raise ScheduleError(
            f"The checkpoint was saved in stage '{name}', but the stages are {', '.join(map(repr, names))} now. "
            f"Keep a stage of that name, or start from the weights alone."
        )
    place = names.index(name)
    over = {str(stage["name"]) for stage in saved[:index]}
    again = [other for other in names[place + 1 :] if other in over]
    if again:
        raise ScheduleError(
            f"The checkpoint was saved in stage '{name}', when stage '{again[0]}' was over, but '{again[0]}' comes "
            f"after it now. Put it before '{name}', or give it a new name to train it again."
        )
    return place


def _word(value: Any) -> str:
    return "not set" if value is None else repr(value)
