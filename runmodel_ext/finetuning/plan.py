"""Stages and a model, resolved: what trains in each stage, at which rate, and in which mode."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from runmodel_ext.finetuning.blocks import find_blocks
from runmodel_ext.finetuning.checks import problems_of_stage, problems_of_stages, raise_problems
from runmodel_ext.finetuning.selection import Leaf, Selection, Tree, literal, problem_in
from runmodel_ext.finetuning.stages import Stage


@dataclass(frozen=True)
class Treatment:
    """What one stage does to one parameter.

    Attributes:
        trains: Whether it trains.
        lr: Its learning rate; ``None`` for the optimizer's own.
        scale: What that is multiplied by (``layer_decay``).
        weight_decay: Its weight decay; ``None`` for the optimizer's own.
        spares: Whether a group that the optimizer spares keeps its own weight decay.
    """

    trains: bool
    lr: float | None = None
    scale: float = 1.0
    weight_decay: float | None = None
    spares: bool = True


FROZEN = Treatment(trains=False)


@dataclass(frozen=True)
class PlannedStage:
    """One stage, resolved.

    Attributes:
        stage: What the user declared.
        treatments: What happens to each parameter, in the tree's order.
        in_eval: The paths of the modules that are in eval mode.
        notes: What a user should know about it, in sentences.
    """

    stage: Stage
    treatments: tuple[Treatment, ...]
    in_eval: frozenset[str]
    notes: tuple[str, ...] = ()

    @property
    def trained(self) -> frozenset[int]:
        """The numbers of the parameters that train."""
        return frozenset(place for place, each in enumerate(self.treatments) if each.trains)


@dataclass(frozen=True)
class Plan:
    """All stages of a fine-tuning, resolved against a model. The same stages and model give the same plan."""

    tree: Tree
    stages: tuple[PlannedStage, ...]

    @property
    def ever_trained(self) -> frozenset[int]:
        """The numbers of the parameters that train in some stage."""
        return frozenset[int]().union(*(planned.trained for planned in self.stages))

    def trains_after(self, index: int) -> frozenset[int]:
        """The numbers of the parameters that train in stage ``index`` or a later one."""
        return frozenset[int]().union(*(planned.trained for planned in self.stages[index:]))


def make_plan(stages: Sequence[Stage], model: nn.Module) -> Plan:
    """Resolve stages against a model.

    Raises:
        ScheduleError: If they do not fit together, or not the model; all that is wrong is said at once.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> plan = make_plan([Stage("top", train="1", lr=0.1)], net)
        >>> sorted(plan.stages[0].trained), sorted(plan.stages[0].in_eval)
        ([2, 3], ['0'])
    """
    plan, problems = resolve(stages, model)
    raise_problems(problems)
    return plan


def resolve(stages: Sequence[Stage], model: nn.Module) -> tuple[Plan, list[str]]:
    """Resolve stages against a model, and say what is wrong; then the plan holds only the stages that can be read."""
    problems = problems_of_stages(stages)
    tree = Tree.of(model)
    lazy = [leaf.name for leaf in tree.leaves if isinstance(leaf.parameter, nn.parameter.UninitializedParameter)]
    if lazy:
        problems.append(f"The parameter '{lazy[0]}' has no shape yet. Run a batch through the model before the fit.")
        return Plan(tree, ()), problems
    planned = []
    for stage in stages:
        if isinstance(stage, Stage):
            resolver = _Resolver(stage, tree, model)
            if problems_of_stage(stage):
                resolver.look_at_selectors()
            else:
                planned.append(resolver.resolve())
            problems += resolver.problems
    return Plan(tree, tuple(planned)), problems


class _Resolver:
    """Resolves one stage, and collects what is wrong with it."""

    def __init__(self, stage: Stage, tree: Tree, model: nn.Module) -> None:
        self.stage = stage
        self.tree = tree
        self.model = model
        self.problems: list[str] = []
        self.notes: list[str] = []

    def resolve(self) -> PlannedStage:
        stage, tree = self.stage, self.tree
        named = self._select("train")
        excluded = self._select("exclude")
        trained = frozenset(n for n in named.leaves - excluded.leaves if tree.leaves[n].can_train)
        if not trained and not self.problems:
            self._complain(self._why_nothing(named, excluded))
        rates = self._table("lr", stage.lr, trained)
        decays = self._table("weight_decay", stage.weight_decay, trained)
        scales = self._scales(trained)
        spares = not isinstance(stage.weight_decay, Mapping)
        treatments = tuple(
            Treatment(True, rates.get(n), scales.get(n, 1.0), decays.get(n), spares) if n in trained else FROZEN
            for n in range(len(tree.leaves))
        )
        self._note_shared(named, excluded, trained)
        self._note_thawed(trained)
        return PlannedStage(stage, treatments, self._in_eval(named, excluded, trained), tuple(self.notes))

    def look_at_selectors(self) -> None:
        """Say which selectors name nothing, where other faults of the stage stand in the way of more."""
        for argument in ("train", "exclude", "train_mode", "eval_mode"):
            sound = [each for each in getattr(self.stage, argument) if problem_in(each) is None]
            for selector in self.tree.select(sound).unmatched:
                self._complain(self._unmatched(selector, argument))

    def _complain(self, problem: str) -> None:
        self.problems.append(f"Stage '{self.stage.name}': {problem}")

    def _select(self, argument: Any) -> Selection:
        selection = self.tree.select(self.stage.selectors(argument))
        for selector in selection.unmatched:
            self._complain(self._unmatched(selector, argument))
        return selection

    def _unmatched(self, selector: str, argument: str) -> str:
        nearest = self.tree.nearest(selector)
        what = "modules" if selector.startswith("type:") else f"{len(self.tree.paths)} modules and parameters"
        names = self.tree.paths
        found = f"the nearest are {_listed(nearest)}" if nearest else f"they run from '{names[0]}' to '{names[-1]}'"
        return f"the selector '{selector}' in `{argument}` matches none of the {what} of the model; {found}."

    def _why_nothing(self, named: Selection, excluded: Selection) -> str:
        asked = _listed(self.stage.selectors("train"))
        if named.leaves and named.leaves <= excluded.leaves:
            return (
                f"it trains nothing: `exclude` takes away all of the {len(named.leaves)} parameters that {asked} names."
            )
        if named.leaves:
            return f"it trains nothing: the parameters that {asked} names hold whole numbers, which have no gradient."
        return f"it trains nothing: {asked} names modules without parameters. Name one that has some."

    def _table(
        self, argument: str, value: float | Mapping[str, float] | None, trained: frozenset[int]
    ) -> dict[int, float]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            return dict.fromkeys(trained, float(value))
        chosen: dict[int, float] = {}
        for selector, number in value.items():
            selection = self.tree.select([selector])
            if selection.unmatched:
                self._complain(self._unmatched(selector, argument))
                continue
            fresh = (selection.leaves & trained) - chosen.keys()
            if not fresh and trained and selector != "*":
                self._complain(self._useless(argument, selector, selection.leaves & trained))
            chosen.update(dict.fromkeys(fresh, float(number)))
        left = sorted(trained - chosen.keys())
        if left:
            self._complain(
                f"`{argument}` says nothing of {len(left)} of the {len(trained)} parameters that train, such as "
                f"'{self.tree.leaves[left[0]].name}'. Add an entry for them, such as '*'."
            )
        return chosen

    def _useless(self, argument: str, selector: str, trains: frozenset[int]) -> str:
        if trains:
            return (
                f"the entry '{selector}' of `{argument}` never counts: the entries before it match all that it "
                "matches, and the first that matches wins. Put it before them."
            )
        what = "a learning rate" if argument == "lr" else "a weight decay"
        return (
            f"`{argument}` gives {what} to '{selector}', which is frozen in this stage. "
            "Train it, or leave the entry out."
        )

    def _scales(self, trained: frozenset[int]) -> dict[int, float]:
        decay = self.stage.layer_decay
        if decay is None or not trained:
            return {}
        order = block_of_each(self.model, self.tree)
        blocks = {order[n] for n in trained if n in order}
        if len(blocks) < 2:
            self._complain(
                f"`layer_decay` needs an order of blocks, but the {len(trained)} parameters that train lie in "
                f"{len(blocks)} block. Give a table of `lr` instead."
            )
            return {}
        last = max(order.values())
        return {n: decay ** (last - order.get(n, 0)) for n in trained}

    def _note_shared(self, named: Selection, excluded: Selection, trained: frozenset[int]) -> None:
        for n in sorted(trained):
            leaf = self.tree.leaves[n]
            if len(leaf.names) > 1:
                self.notes.append(
                    f"'{leaf.names[0]}' is the same parameter as {_listed(leaf.names[1:])}, and trains with it."
                )

    def _note_thawed(self, trained: frozenset[int]) -> None:
        thawed = [self.tree.leaves[n] for n in sorted(trained) if not self.tree.leaves[n].parameter.requires_grad]
        if thawed:
            self.notes.append(f"The model itself had frozen {counted(thawed)} of what trains.")

    def _in_eval(self, named: Selection, excluded: Selection, trained: frozenset[int]) -> frozenset[str]:
        stays = self._select("train_mode").modules
        must = self._select("eval_mode").modules
        holds, trains = set(), set()
        for n, leaf in enumerate(self.tree.leaves):
            for name in leaf.names:
                for parent in _parents(name):
                    holds.add(parent)
                    if n in trained:
                        trains.add(parent)
        result = set()
        for path in self.tree.modules:
            wanted = path in named.modules and path not in excluded.modules
            if path and path not in trains and (path in holds or not wanted) and path not in stays:
                result.add(path)
        return frozenset(_without_shared(result, self.tree)) | must


def block_of_each(model: nn.Module, tree: Tree) -> dict[int, int]:
    """The number of the block in which each parameter lies, from the input to the output."""
    order: dict[int, int] = {}
    for place, paths in enumerate(find_blocks(model)):
        selection = tree.select([literal(path) for path in paths])
        order.update(dict.fromkeys(selection.leaves, place))
    return order


def counted(leaves: Sequence[Leaf]) -> str:
    """How many parameters, and how many numbers in them.

    Example:
        >>> counted(Tree.of(nn.Linear(2, 3)).leaves)
        '2 parameters (9 numbers)'
    """
    numbers = sum(leaf.parameter.numel() for leaf in leaves)
    return f"{len(leaves)} parameter{'s' if len(leaves) != 1 else ''} ({numbers:,} numbers)"


def _without_shared(paths: set[str], tree: Tree) -> Iterator[str]:
    # A module with two names is in train mode where one of them is.
    training = {id(module) for path, module in tree.modules.items() if path not in paths}
    return (path for path in paths if id(tree.modules[path]) not in training)


def _parents(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
