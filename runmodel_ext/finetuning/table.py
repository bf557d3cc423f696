"""The plan of a fine-tuning as a table."""

from runmodel_ext._tables import print_rows
from runmodel_ext.finetuning.conductor import Conductor
from runmodel_ext.finetuning.plan import PlannedStage
from runmodel_ext.finetuning.selection import Tree
from runmodel_ext.finetuning.stages import Stage

COLUMNS = ("stage", "trains", "parameters", "share", "learning rate", "until")


def print_plan(conductor: Conductor) -> None:
    """Print the plan: each stage, what trains and at which rate, and until when."""
    print_rows(COLUMNS, plan_rows(conductor))
    for note in conductor.notes:
        print(f"  {note}")


def plan_rows(conductor: Conductor) -> list[list[str]]:
    """The plan as the rows of a table, with the columns :data:`COLUMNS`."""
    total = sum(leaf.parameter.numel() for leaf in conductor.plan.tree.leaves)
    rows = []
    for index, planned in enumerate(conductor.plan.stages):
        numbers = sum(conductor.plan.tree.leaves[n].parameter.numel() for n in planned.trained)
        name = planned.stage.name
        rows.append(
            [
                f"{name} (on)" if index == conductor.progress.index and index else name,
                what_trains(conductor.plan.tree, planned),
                f"{numbers:,}",
                _percent(numbers, total),
                _rates(conductor, index),
                until_in_words(planned.stage),
            ]
        )
    return rows


def what_trains(tree: Tree, planned: PlannedStage) -> str:
    """The modules that train, as few paths as say it."""
    trained = planned.trained
    if len(trained) == len(tree.leaves):
        return "everything"
    whole: list[str] = []
    below: dict[str, set[int]] = {}
    for n, leaf in enumerate(tree.leaves):
        for name in leaf.names:
            path = name
            while path:
                below.setdefault(path, set()).add(n)
                path = path.rpartition(".")[0]
    for path in sorted(below, key=lambda path: path.count(".")):
        inside = any(path.startswith(f"{other}.") for other in whole)
        if not inside and below[path] <= trained:
            whole.append(path)
    order = {path: min(below[path]) for path in whole}
    paths = sorted(whole, key=order.__getitem__)
    return ", ".join(paths) if len(paths) <= 6 else f"{', '.join(paths[:5])} and {len(paths) - 5} more"


def until_in_words(stage: Stage) -> str:
    """When a stage ends.

    Example:
        >>> from runmodel_ext.finetuning.stages import Plateau, Until
        >>> until_in_words(Stage("top", train="*", until=Until(epochs=10, plateau=Plateau("val/loss", patience=2))))
        '10 epochs, or val/loss flat for 2 looks'
    """
    until = stage.until
    parts = []
    if until is not None:
        if until.epochs is not None:
            parts.append(f"{until.epochs} epoch{'s' * (until.epochs != 1)}")
        if until.steps is not None:
            parts.append(f"{until.steps} step{'s' * (until.steps != 1)}")
        if until.fraction is not None:
            parts.append(f"{100 * until.fraction:g}% of the fit")
        if until.plateau is not None:
            looks = f"{until.plateau.patience} look{'s' * (until.plateau.patience != 1)}"
            parts.append(f"{until.plateau.monitor} flat for {looks}")
        if until.reaches is not None:
            sign = "≥" if until.reaches.mode == "max" else "≤"
            parts.append(f"{until.reaches.monitor} {sign} {until.reaches.value:g}")
    return ", or ".join(parts) if parts else "the fit ends"


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(1, whole)
    if 99 < share < 100:  # which is not all of it
        return f"{min(share, 99.9):.1f}%"
    return f"{share:.2g}%" if 0 < share < 1 else f"{share:.0f}%"


def _rates(conductor: Conductor, index: int) -> str:
    found = conductor.rates_of_stage(index)
    stage = conductor.plan.stages[index].stage
    values = sorted(set(found.values()), reverse=True)
    if len(values) == 1:
        shown = f"{values[0]:.4g}"
    elif len(values) <= 4:
        first = {value: next(label for label, rate in found.items() if rate == value) for value in values}
        shown = ", ".join(f"{label} {value:.4g}" for value, label in first.items())
    else:
        shown = f"{values[-1]:.3g} to {values[0]:.3g}, {len(values)} rates"
    if stage.lr_scheduler is not None:
        shown += ", scheduled"
    return f"{shown}, warm-up {stage.warmup.steps} steps" if stage.warmup is not None else shown
