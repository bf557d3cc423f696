"""What is wrong with stages by themselves, and with their length: sentences, none where all is well."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning.selection import problem_in
from runmodel_ext.finetuning.stages import Best, Plateau, Reaches, Stage, Until, Warmup


@dataclass(frozen=True)
class Length:
    """How long a fit is; ``None`` where it is not known or not limited.

    Attributes:
        epochs: The most epochs.
        steps: The most optimizer steps.
        steps_per_epoch: Optimizer steps in an epoch.
        looks_per_epoch: How often monitored metrics are looked at in an epoch.
    """

    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    looks_per_epoch: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is an end."""
        return self.epochs is not None or self.steps is not None


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one error that names all problems; none where there are none.

    Raises:
        ScheduleError: If there is a problem.
    """
    if len(problems) == 1:
        raise ScheduleError(problems[0])
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ScheduleError(f"The stages have {len(problems)} problems:\n{listed}")


def problems_of_stages(stages: Sequence[Stage]) -> list[str]:
    """What is wrong with the stages, whatever the model.

    Example:
        >>> problems_of_stages([Stage("head", train="head", lr=-1.0)])
        ["Stage 'head': `lr` must be a number greater than 0, but is -1.0."]
    """
    if not stages:
        return ["There are no stages. Give at least one, such as `Stage('all', train='*')`."]
    strangers = [stage for stage in stages if not isinstance(stage, Stage)]
    if strangers:
        return [f"Each of `stages` must be a Stage, but one is {strangers[0]!r}."]
    problems = []
    for name, count in Counter(stage.name for stage in stages).items():
        if count > 1:
            problems.append(f"{count} stages are called '{name}'. Give each its own name.")
    for place, stage in enumerate(stages):
        problems += problems_of_stage(stage)
        endless = not isinstance(stage.until, Until) or not _conditions(stage.until)
        if endless and not _of_kind("until", stage.until, Until) and place + 1 < len(stages):
            problems.append(
                f"Stage '{stages[place + 1].name}' can never begin: stage '{stage.name}' before it has no `until`. "
                "Say when it ends, such as `until: {epochs: 3}`."
            )
    return problems


def problems_of_length(
    stages: Sequence[Stage], length: Length, first: int = 0, epoch: int = 0, step: int = 0
) -> list[str]:
    """Which stages can never begin in a fit of this length, and which conditions can never come first.

    Args:
        stages: The stages.
        length: The length of the fit.
        first: The number of the stage that is on.
        epoch: The epoch in which it began.
        step: The optimizer step in which it began.

    Example:
        >>> stages = [Stage("head", train="head", until=Until(epochs=8)), Stage("all", train="*")]
        >>> problems_of_length(stages, Length(epochs=6))
        ["Stage 'all' can never begin: those before it take 8 epochs or more, and the fit ends after 6 epochs \
(max_epochs). Make them shorter or the fit longer."]
    """
    problems = _endless_fractions(stages[first:], length)
    epochs, steps = float(epoch), float(step)
    for place in range(first, len(stages)):
        stage = stages[place]
        if place > first:
            reached = _passed_end(epochs, steps, length)
            if reached:
                problems.append(
                    f"Stage '{stage.name}' can never begin: those before it take {reached}. "
                    "Make them shorter or the fit longer."
                )
                break
        problems += _never_first(stage, length)
        least_epochs, least_steps = _least(stage, length, epochs)
        epochs += least_epochs
        steps += least_steps
    return problems


def _endless_fractions(stages: Sequence[Stage], length: Length) -> list[str]:
    if length.limited:
        return []
    return [
        f"Stage '{stage.name}': `until.fraction` needs a fit with an end, but the Trainer has neither max_epochs nor "
        "max_steps. Set one of them."
        for stage in stages
        if stage.until is not None and stage.until.fraction is not None
    ]


def _passed_end(epochs: float, steps: float, length: Length) -> str | None:
    if length.epochs is not None and epochs >= length.epochs - 1e-9:
        return f"{epochs:.3g} epochs or more, and the fit ends after {length.epochs} epochs (max_epochs)"
    if length.steps is not None and steps >= length.steps - 1e-9:
        return f"{steps:g} steps or more, and the fit ends after {length.steps} steps (max_steps)"
    return None


def _least(stage: Stage, length: Length, start: float) -> tuple[float, float]:
    """The fewest epochs and steps that a stage takes which begins after ``start`` epochs, as far as that is known."""
    until = stage.until
    if until is None or until.reaches is not None:
        return 0.0, 0.0
    choices: list[tuple[float, float]] = []
    per_epoch = length.steps_per_epoch
    if until.epochs is not None:
        choices.append((until.epochs, until.epochs * per_epoch if per_epoch else 0.0))
    if until.steps is not None:
        choices.append((until.steps / per_epoch if per_epoch else 0.0, until.steps))
    if until.fraction is not None:
        choices.append(((length.epochs or 0) * until.fraction, (length.steps or 0) * until.fraction))
    if until.plateau is not None:
        looks = until.plateau.patience + 1
        per_look = 1.0 / length.looks_per_epoch if length.looks_per_epoch else 0.0
        # A stage that begins within an epoch has its first look at the end of that epoch.
        before = math.floor(start / per_look + 1e-9) if per_look else 0
        choices.append(((before + looks) * per_look - start if per_look else 0.0, 0.0))
    if not choices:
        return 0.0, 0.0
    return min(each[0] for each in choices), min(each[1] for each in choices)


def _never_first(stage: Stage, length: Length) -> Iterator[str]:
    until = stage.until
    if until is None or until.plateau is None or until.epochs is None or length.looks_per_epoch is None:
        return
    if until.plateau.patience >= until.epochs * length.looks_per_epoch:
        yield (
            f"Stage '{stage.name}': a plateau with patience {until.plateau.patience} can never come before "
            f"{until.epochs} epochs, in which '{until.plateau.monitor}' is looked at "
            f"{until.epochs * length.looks_per_epoch:g} times. Lower `patience`, or leave one of the two out."
        )


def problems_of_stage(stage: Stage) -> list[str]:
    """What is wrong with one stage by itself."""
    return [f"Stage '{stage.name}': {problem}" for problem in _of_one(stage)]


def _of_one(stage: Stage) -> Iterator[str]:
    if not isinstance(stage.name, str) or not stage.name.strip():
        yield f"`name` must be a word, but is {stage.name!r}."
    yield from _of_selectors(stage)
    yield from _of_numbers("lr", stage.lr, greater=True)
    yield from _of_numbers("weight_decay", stage.weight_decay, greater=False)
    if stage.layer_decay is not None and not (_is_number(stage.layer_decay) and 0 < stage.layer_decay <= 1):
        yield f"`layer_decay` must be greater than 0 and at most 1, but is {stage.layer_decay!r}."
    yield from _of_kind("warmup", stage.warmup, Warmup) or (_of_warmup(stage.warmup) if stage.warmup else ())
    yield from _of_choice("lr_interval", stage.lr_interval, ("epoch", "step"))
    yield from _of_choice("optimizer_state", stage.optimizer_state, ("keep", "reset"))
    factory: Any = stage.lr_scheduler
    if factory is not None and not callable(factory):
        yield f"`lr_scheduler` must be what builds a scheduler from an optimizer, but is {factory!r}."
    yield from _of_kind("until", stage.until, Until) or (_of_until(stage.until) if stage.until else ())
    yield from _of_best(stage)


def _of_kind(name: str, value: Any, kind: type) -> list[str]:
    """What is wrong with the kind of an argument, which Python does not check; nothing where it is left out."""
    if value is None or isinstance(value, kind):
        return []
    return [f"`{name}` must be of the kind {kind.__name__}, but is {value!r}. Write `{kind.__name__}(…)`."]


def _of_selectors(stage: Stage) -> Iterator[str]:
    if not stage.train:
        yield "`train` names nothing. Name what trains, such as 'head', or '*' for everything."
    for argument in ("train", "exclude", "train_mode", "eval_mode"):
        for selector in getattr(stage, argument):
            problem = problem_in(selector)
            if problem:
                yield f"the selector {selector!r} in `{argument}` {problem}."


def _of_best(stage: Stage) -> Iterator[str]:
    wanted: Any = stage.restore_best
    if isinstance(wanted, Best):
        yield from _of_choice("restore_best.mode", wanted.mode, ("min", "max"))
    elif not isinstance(wanted, bool):
        yield f"`restore_best` must be true, false or of the kind Best, but is {wanted!r}."
    elif wanted and not _of_kind("until", stage.until, Until) and stage.best is None:
        yield (
            "`restore_best` needs a metric, but `until` watches none. Watch one there (`plateau`, `reaches`), "
            "or say which, as `restore_best: {monitor: val/loss, mode: min}` of a stage."
        )


def _of_until(until: Until) -> Iterator[str]:
    for name in ("epochs", "steps"):
        value = getattr(until, name)
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            yield f"`until.{name}` must be a whole number of at least 1, but is {value!r}."
    fraction = until.fraction
    if fraction is not None and not (_is_number(fraction) and 0 < fraction <= 1):
        yield f"`until.fraction` must be greater than 0 and at most 1, but is {fraction!r}."
    wrong = [*_of_kind("until.plateau", until.plateau, Plateau), *_of_kind("until.reaches", until.reaches, Reaches)]
    yield from wrong or _of_metrics(until)


def _of_metrics(until: Until) -> Iterator[str]:
    for name in ("plateau", "reaches"):
        watched = getattr(until, name)
        if watched is not None and not (isinstance(watched.monitor, str) and watched.monitor):
            yield f"`until.{name}.monitor` must be the name of a metric, but is {watched.monitor!r}."
    if until.plateau is not None:
        yield from _of_plateau(until.plateau)
    if until.reaches is not None:
        yield from _of_choice("until.reaches.mode", until.reaches.mode, ("min", "max"))
        if not _is_number(until.reaches.value):
            yield f"`until.reaches.value` must be a number, but is {until.reaches.value!r}."
    if until.plateau and until.reaches:
        same = until.plateau.monitor == until.reaches.monitor
        if same and until.plateau.mode != until.reaches.mode:
            yield (
                f"`until` contradicts itself: for `plateau`, '{until.plateau.monitor}' is better towards "
                f"'{until.plateau.mode}', for `reaches` towards '{until.reaches.mode}'. Set both to the same `mode`."
            )


def _of_plateau(plateau: Plateau) -> Iterator[str]:
    yield from _of_choice("until.plateau.mode", plateau.mode, ("min", "max"))
    if not (isinstance(plateau.patience, int) and plateau.patience >= 1):
        yield f"`until.plateau.patience` must be a whole number of at least 1, but is {plateau.patience!r}."
    if not (_is_number(plateau.min_delta) and plateau.min_delta >= 0):
        yield f"`until.plateau.min_delta` must be at least 0, but is {plateau.min_delta!r}."


def _of_warmup(warmup: Warmup) -> Iterator[str]:
    if not (isinstance(warmup.steps, int) and not isinstance(warmup.steps, bool) and warmup.steps >= 1):
        yield f"`warmup.steps` must be a whole number of at least 1, but is {warmup.steps!r}."
    if not (_is_number(warmup.start) and 0 <= warmup.start < 1):
        yield f"`warmup.start` must be at least 0 and less than 1, but is {warmup.start!r}."


def _of_numbers(name: str, value: Any, greater: bool) -> Iterator[str]:
    table = value if isinstance(value, Mapping) else {None: value}
    if isinstance(value, Mapping) and not value:
        yield f"`{name}` is an empty table. Give it entries, or leave it out."
    for selector, number in table.items():
        if selector is not None and problem_in(selector):
            yield f"the selector {selector!r} in `{name}` {problem_in(selector)}."
        if number is None and selector is None:
            continue
        if not _is_number(number) or number < 0 or (greater and number == 0):
            where = name if selector is None else f"{name}['{selector}']"
            yield f"`{where}` must be a number {'greater than' if greater else 'of at least'} 0, but is {number!r}."


def _of_choice(name: str, value: Any, choices: Sequence[str]) -> Iterator[str]:
    if value not in choices:
        yield f"`{name}` must be {' or '.join(repr(choice) for choice in choices)}, but is {value!r}."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _conditions(until: Until) -> list[Any]:
    given = (until.epochs, until.steps, until.fraction, until.plateau, until.reaches)
    return [each for each in given if each is not None]
