"""States of optimizers and schedulers, as a checkpoint without stages holds them, and as the split groups need them.

A checkpoint keeps the user's own groups, so that it is the checkpoint that Lightning alone would have written: it can
be resumed without stages, or with others, and one that was written without stages can be resumed with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from runmodel_ext.finetuning.groups import Layout, spread_state
from runmodel_ext.finetuning.plan import Plan

_NAMES = ("name", "param_names")  # options of a group that the split changes


class OriginalGroups:
    """The groups of one optimizer before they are split.

    Args:
        plan: The stages, resolved.
        optimizer: The optimizer, as the user built it.
        layout: How it will be split.
    """

    def __init__(self, plan: Plan, optimizer: Optimizer, layout: Layout) -> None:
        self.plan = plan
        self.optimizer = optimizer
        self.layout = layout
        self.members = [list(group["params"]) for group in optimizer.param_groups]
        self._changed = [
            (*_NAMES, "weight_decay") if place in _decided(layout) else _NAMES for place in range(len(self.members))
        ]
        self.options = [
            {key: group[key] for key in changed if key in group}
            for group, changed in zip(optimizer.param_groups, self._changed, strict=True)
        ]

    @property
    def firsts(self) -> list[int]:
        """For each group of the user's, the number of the first part that was made of it."""
        origins = [part.origin for part in self.layout.parts]
        return [origins.index(group) for group in range(len(self.members))]

    @property
    def sources(self) -> list[int]:
        """For each part, the number of the user's group that it was made of."""
        return [part.origin for part in self.layout.parts]

    def merged(self, state: Mapping[str, Any], own_rates: Sequence[float]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state of the optimizer, as it would be with the user's groups.

        Args:
            state: The state of the split optimizer.
            own_rates: The optimizer's own learning rate in each part.

        Returns:
            The state, and that of parameters which the user's groups do not hold, by their names.
        """
        numbers = self.numbers(state)
        saved = {}
        fresh: dict[int, Any] = {}
        count = 0
        for members in self.members:
            numbered = range(count, count + len(members))
            count += len(members)
            fresh.update(zip(map(id, members), numbered, strict=True))
            if not self.layout.whole:
                found = {new: numbers.pop(id(p), None) for new, p in zip(numbered, members, strict=True)}
                saved.update({new: state["state"][old] for new, old in found.items() if old in state["state"]})
        groups = self.merged_groups(state, own_rates, fresh)
        other = {
            name: state["state"][numbers[id(parameter)]]
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if (name := self._name(parameter)) and numbers.get(id(parameter)) in state["state"]
        }
        return {**state, "state": saved, "param_groups": groups}, other

    def merged_groups(
        self, state: Mapping[str, Any], own_rates: Sequence[float], keys: Mapping[int, Any]
    ) -> list[dict[str, Any]]:
        """The groups of a state, as they would be if they had not been split; ``keys`` is for each parameter's id."""
        groups = []
        for place, (members, options, first) in enumerate(zip(self.members, self.options, self.firsts, strict=True)):
            parted = state["param_groups"][first]
            group = {key: value for key, value in parted.items() if key not in self._changed[place]}
            rate = {"lr": _like(group["lr"], own_rates[first])} if "lr" in group else {}
            groups.append({**group, **options, **rate, "params": [keys[id(parameter)] for parameter in members]})
        return groups

    def split(self, state: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        """The state that the split optimizer loads, from what :meth:`merged` gave."""
        if len(state.get("param_groups", ())) != len(self.members):
            return dict(state)  # another optimizer, of which torch will complain
        known: dict[int, Any] = {}
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        fits = not self.layout.whole or len(held) == sum(map(len, self.members))
        for members, group in zip(self.members, state["param_groups"], strict=True):
            for parameter, number in zip(members, group["params"], strict=False):
                if fits and number in state["state"]:
                    known[id(parameter)] = state["state"][number]
        saved, groups = {}, []
        count = 0
        for group, origin in zip(self.optimizer.param_groups, self.sources, strict=True):
            numbered = list(range(count, count + len(group["params"])))
            count += len(numbered)
            for number, parameter in zip(numbered, group["params"], strict=True):
                found = other.get(self._name(parameter), known.get(id(parameter)))
                if found is not None:
                    saved[number] = found
            changed = self._changed[origin]
            now = {key: group[key] for key in changed if key in group}
            kept = {key: value for key, value in state["param_groups"][origin].items() if key not in changed}
            groups.append({**kept, **now, "params": numbered})
        return {**state, "state": saved, "param_groups": groups}

    def merged_scheduler(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state of a scheduler, as it would be with the user's groups."""
        return spread_state(state, self.firsts, len(self.layout.parts))

    def split_scheduler(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state that a scheduler of the split optimizer loads."""
        return spread_state(state, self.sources, len(self.members))

    def _name(self, parameter: Any) -> str:
        place = self.plan.tree.number(parameter)
        return "" if place is None else self.plan.tree.leaves[place].name

    def numbers(self, state: Mapping[str, Any]) -> dict[int, Any]:
        """What stands for each parameter in a state of the split optimizer, by the parameter's ``id``."""
        return {
            id(parameter): number
            for group, saved in zip(self.optimizer.param_groups, state["param_groups"], strict=True)
            for parameter, number in zip(group["params"], saved["params"], strict=True)
        }


def _decided(layout: Layout) -> set[int]:
    """The user's groups on whose weight decay a stage decides."""
    return {part.origin for part in layout.parts if any(each.weight_decay is not None for each in part.treatments)}


def _like(old: Any, rate: float) -> Any:
    return torch.full_like(old, rate) if isinstance(old, torch.Tensor) else rate
