"""A checkpoint of another schedule, or of none, made to fit the one that goes on with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning.groups import spread_state


def changes_between(saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is different in two schedules, in words.

    Args:
        saved: The stages of a checkpoint, as :func:`~runmodel_ext.finetuning.stages.described` gives them.
        now: The stages that go on with it, likewise.

    Example:
        >>> changes_between([{"name": "head", "lr": 0.1}], [{"name": "head", "lr": 0.2}, {"name": "all"}])
        ["stage 'head': `lr` was 0.1 and is 0.2", "stage 'all' is new"]
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
            if was != is_now:
                changes.append(f"stage '{name}': `{key}` was {_word(was)} and is {_word(is_now)}")
    changes += [f"stage '{name}' is gone" for name in before if name not in after]
    common = [name for name in after if name in before]
    if common != [name for name in before if name in after]:
        changes.append(f"the order is {', '.join(after)}, and was {', '.join(before)}")
    return changes


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


def fit_checkpoint(
    checkpoint: Any,
    saved_groups: Sequence[Sequence[Sequence[str]]],
    groups: Sequence[Sequence[Sequence[str]]],
    scheduler_owners: Sequence[int],
) -> list[list[int]]:
    """Rearrange the states of optimizers and schedulers in a checkpoint for other parameter groups, in place.

    Args:
        checkpoint: A Lightning checkpoint.
        saved_groups: For each optimizer, the names of the parameters in each of its groups when it was saved.
        groups: The same, as it is now.
        scheduler_owners: For each scheduler, the number of its optimizer.

    Returns:
        For each optimizer and each of its groups now, the number of the group that it was.
    """
    sources = []
    for place, now in enumerate(groups):
        saved = saved_groups[place] if place < len(saved_groups) else []
        sources.append([_group_before(names, saved) for names in now])
        if [list(names) for names in saved] == [list(names) for names in now]:
            continue
        state = checkpoint["optimizer_states"][place]
        checkpoint["optimizer_states"][place] = _rearranged(state, saved, now, sources[-1])
    for place, owner in enumerate(scheduler_owners):
        if place < len(checkpoint.get("lr_schedulers", ())):
            state = checkpoint["lr_schedulers"][place]
            checkpoint["lr_schedulers"][place] = spread_state(state, sources[owner], len(saved_groups[owner]))
    return sources


def _rearranged(
    state: Mapping[str, Any],
    saved: Sequence[Sequence[str]],
    now: Sequence[Sequence[str]],
    source: Sequence[int],
) -> dict[str, Any]:
    old_groups = state["param_groups"]
    numbers = {
        key: number
        for keys, group in zip(_keys(saved), old_groups, strict=True)
        for key, number in zip(keys, group["params"], strict=True)
    }
    states: dict[int, Any] = {}
    fresh_groups = []
    count = 0
    for place, keys in enumerate(_keys(now)):
        members = list(range(count, count + len(keys)))
        count += len(keys)
        states.update({new: state["state"][numbers[key]] for new, key in zip(members, keys, strict=True)
                       if key in numbers and numbers[key] in state["state"]})  # fmt: skip
        fresh_groups.append({**old_groups[source[place]], "params": members})
    return {**state, "state": states, "param_groups": fresh_groups}


def _keys(groups: Sequence[Sequence[str]]) -> list[list[tuple[str, int]]]:
    """Names made unique: a parameter that the model does not hold has none, and is known by its place."""
    strangers = 0
    keys: list[list[tuple[str, int]]] = []
    for names in groups:
        keys.append([])
        for name in names:
            strangers += not name
            keys[-1].append((name, 0 if name else strangers))
    return keys


def _group_before(names: Sequence[str], saved: Sequence[Sequence[str]]) -> int:
    return next((place for place, group in enumerate(saved) if set(names) & set(group)), 0)


def _word(value: Any) -> str:
    return "not set" if value is None else repr(value)
