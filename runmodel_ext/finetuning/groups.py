"""The user's parameter groups, split once into parts that all stages treat alike.

The split follows from the stages, the model and the optimizer alone, so that it is the same after a resume, and it
never changes during a fit: optimizers and schedulers keep their state as it is. What is frozen stays in its group,
without a gradient, and torch's optimizers pass it over.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from runmodel_ext.finetuning.plan import FROZEN, Plan, Treatment, counted
from runmodel_ext.finetuning.selection import common_path


@dataclass(frozen=True)
class Part:
    """One parameter group after the split.

    Attributes:
        label: What it is called, unique in its optimizer.
        leaves: The numbers of its parameters in the plan's tree; ``-1`` for one that the model does not hold.
        origin: The number of the user's group that it comes from.
        treatments: What each stage does to it.
    """

    label: str
    leaves: tuple[int, ...]
    origin: int
    treatments: tuple[Treatment, ...]


@dataclass(frozen=True)
class Layout:
    """How one optimizer is split.

    Attributes:
        parts: One for each of its groups after the split.
        groups: How many groups the user's optimizer had.
        whole: Whether the optimizer takes one group alone (LBFGS), whose members change with the stages.
    """

    parts: tuple[Part, ...]
    groups: int
    whole: bool = False


def layouts_of(plan: Plan, optimizers: Sequence[Optimizer]) -> tuple[list[Layout], list[str], list[str]]:
    """Decide how optimizers are split; nothing is changed.

    Args:
        plan: The stages, resolved.
        optimizers: The optimizers, with the groups that the user gave them.

    Returns:
        A layout for each optimizer, what is wrong, and what a user should know; the last two in sentences.
    """
    held = [[[_number(plan, p) for p in group["params"]] for group in each.param_groups] for each in optimizers]
    joining, problems, notes = _joining(plan, optimizers, held)
    layouts = []
    for place, optimizer in enumerate(optimizers):
        whole = isinstance(optimizer, LBFGS)
        parts: list[Part] = []
        for origin, leaves in enumerate(held[place]):
            alike: dict[Any, list[int]] = {}
            for n in leaves:
                alike.setdefault(0 if whole else _treated(plan, n), []).append(n)
            # A group that the user keeps empty stays, so that groups keep their places.
            alone = not leaves and origin not in joining.get(place, {})
            parts += [_part(plan, members, origin) for members in (alike.values() if not alone else [()])]
        for origin, leaves in joining.get(place, {}).items():
            alike = {}
            for n in leaves:
                alike.setdefault(_treated(plan, n), []).append(n)
            parts += [_part(plan, members, origin) for members in alike.values()]
        if whole and joining.get(place):
            parts = [_part(plan, [n for part in parts for n in part.leaves], 0)]
        if whole:
            problems += _of_one_group(plan, type(optimizer).__name__)
        layouts.append(Layout(tuple(_unique(parts)), len(held[place]), whole))
    return layouts, problems, notes


def split_groups(plan: Plan, optimizer: Optimizer, layout: Layout) -> None:
    """Split an optimizer's groups in place, as its layout says."""
    if layout.whole:
        known = {id(p) for p in optimizer.param_groups[0]["params"]}
        for n in layout.parts[0].leaves:
            if n >= 0 and id(plan.tree.leaves[n].parameter) not in known:
                optimizer.param_groups[0]["params"].append(plan.tree.leaves[n].parameter)
        return
    originals = list(optimizer.param_groups)
    origins = [part.origin for part in layout.parts]
    taken = {original.get("name") for place, original in enumerate(originals) if origins.count(place) == 1}
    fresh = []
    for part in layout.parts:
        original = originals[part.origin]
        members = _members(plan, part, original["params"])
        if origins.count(part.origin) > 1:
            # A learning rate may be a tensor, which each group needs for itself.
            own = {key: value.clone() if isinstance(value, Tensor) else value for key, value in original.items()}
            label = f"{original['name']}/{part.label}" if original.get("name") else part.label
            group = {**own, "name": _untaken(label, taken)}
        else:
            group = original
        if "param_names" in original:
            names = dict(zip(map(id, original["params"]), original["param_names"], strict=True))
            group["param_names"] = [names.get(id(member)) or plan.tree.leaves[n].name for n, member in members]
        group["params"] = [member for _, member in members]
        fresh.append(group)
    optimizer.param_groups[:] = fresh


def _members(plan: Plan, part: Part, held: Sequence[Any]) -> list[tuple[int, Any]]:
    """The parameters of a part, each with its number, where the user's group holds some of them."""
    by_number: dict[int, list[Any]] = {}
    for parameter in held:
        by_number.setdefault(_number(plan, parameter), []).append(parameter)
    return [
        (n, member)
        for n in dict.fromkeys(part.leaves)
        for member in by_number.get(n) or [plan.tree.leaves[n].parameter]
    ]


def _untaken(name: str, taken: set[str | None]) -> str:
    number = 1
    while (free := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    taken.add(free)
    return free


def spread_state(state: Mapping[str, Any], source: Sequence[int], before: int) -> dict[str, Any]:
    """Spread what a scheduler keeps for each group over other groups.

    Args:
        state: The scheduler's ``state_dict``.
        source: For each group that is now, the number of the group that was.
        before: How many groups there were.
    """
    spread: dict[str, Any] = {}
    for key, value in state.items():
        several = isinstance(value, (list, tuple)) and bool(value)
        if several and _is_one_a_group(key) and len(value) == before:
            spread[key] = type(value)(value[place] for place in source)
        elif several and all(isinstance(item, Mapping) for item in value):  # the parts of a SequentialLR
            spread[key] = [spread_state(item, source, before) for item in value]
        else:
            spread[key] = value
    return spread


def _is_one_a_group(key: str) -> bool:
    # `base_values` are those of timm's schedulers.
    return key in {"_last_lr", "lr_lambdas", "base_values"} or key.endswith(("lrs", "momentums"))


def _joining(
    plan: Plan, optimizers: Sequence[Optimizer], held: list[list[list[int]]]
) -> tuple[dict[int, dict[int, list[int]]], list[str], list[str]]:
    """Which group each parameter joins that trains in some stage, and that no optimizer holds."""
    known = {n for optimizer in held for group in optimizer for n in group}
    joining: dict[int, dict[int, list[int]]] = {}
    problems: list[str] = []
    notes: list[str] = []
    placed: dict[int, tuple[tuple[int, int], str]] = {}
    for planned in plan.stages:
        missing = sorted(planned.trained - known)
        if not missing:
            continue
        leaves = [plan.tree.leaves[n] for n in missing]
        where = _group_named(planned.stage.group, optimizers)
        if isinstance(where, str):
            problems.append(
                f"Stage '{planned.stage.name}' trains {counted(leaves)} that no optimizer holds, such as "
                f"'{leaves[0].name}', and {where}"
            )
            continue
        for n in missing:
            before = placed.setdefault(n, (where, planned.stage.name))
            if before[0] != where and planned.stage.group is not None:
                problems.append(
                    f"Stages '{before[1]}' and '{planned.stage.name}' put '{plan.tree.leaves[n].name}' into two "
                    "groups of the optimizer. Name the same `group` in both."
                )
                break
    for n, (where, _) in placed.items():
        joining.setdefault(where[0], {}).setdefault(where[1], []).append(n)
    for optimizer, groups in joining.items():
        for group, numbers in groups.items():
            chosen = [plan.tree.leaves[n] for n in numbers]
            notes.append(
                f"{counted(chosen)} that {type(optimizers[optimizer]).__name__} did not hold, such as "
                f"'{chosen[0].name}', go to its group {group}, with the options of that group."
            )
    return joining, problems, notes


def _group_named(name: int | str | None, optimizers: Sequence[Optimizer]) -> tuple[int, int] | str:
    """The optimizer and the group that a stage names; a sentence's end where there is none."""
    several = len(optimizers) > 1
    if name is None:
        if several:
            return f"there are {len(optimizers)} optimizers. Say which takes them, such as `group: 1/0`."
        return 0, 0
    first, slash, last = str(name).rpartition("/")
    if slash and first.isdigit() and last.isdigit():
        optimizer, group = int(first), int(last)
        if optimizer < len(optimizers) and group < len(optimizers[optimizer].param_groups):
            return optimizer, group
    elif str(name).isdigit() and not several and int(name) < len(optimizers[0].param_groups):
        return 0, int(name)
    else:
        named = [
            (place, number)
            for place, optimizer in enumerate(optimizers)
            for number, group in enumerate(optimizer.param_groups)
            if group.get("name") == name
        ]
        if len(named) == 1:
            return named[0]
    there = [f"{place}/{number}" for place, each in enumerate(optimizers) for number in range(len(each.param_groups))]
    return f"its `group` is {name!r}, but there are the groups {', '.join(there)}. Name one of them."


def _of_one_group(plan: Plan, optimizer: str) -> Iterator[str]:
    for planned in plan.stages:
        treatments = {(each.lr, each.scale, each.weight_decay) for each in planned.treatments if each.trains}
        if len(treatments) > 1:
            yield (
                f"Stage '{planned.stage.name}' has {len(treatments)} learning rates, but {optimizer} takes one group "
                "of parameters. Give one `lr`, or take another optimizer."
            )


def _part(plan: Plan, members: Sequence[int], origin: int) -> Part:
    if not members:
        return Part("empty", (), origin, (FROZEN,) * len(plan.stages))
    treatments = tuple(planned.treatments[members[0]] if members[0] >= 0 else _free() for planned in plan.stages)
    names = [plan.tree.leaves[n].name for n in members if n >= 0]
    label = common_path(names) if names else "outside the model"
    return Part(label or f"{len(names)} parameters", tuple(members), origin, treatments)


def _free() -> Treatment:
    # What no module of ours holds is none of our business: the optimizer goes on with it.
    return Treatment(trains=True)


def _treated(plan: Plan, n: int) -> Any:
    return tuple(planned.treatments[n] for planned in plan.stages) if n >= 0 else None


def _number(plan: Plan, parameter: Any) -> int:
    number = plan.tree.number(parameter)
    return -1 if number is None else number


def _unique(parts: Sequence[Part]) -> Iterator[Part]:
    taken: set[str] = set()
    for part in parts:
        label, count = part.label, 1
        while label in taken:
            count += 1
            label = f"{part.label}-{count}"  # of letters that every logger takes in the name of a metric
        taken.add(label)
        yield replace(part, label=label)
