"""Ready-made schedules: stages that are made from a model when a fit starts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import nn
from typing_extensions import override

from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning.blocks import find_blocks
from runmodel_ext.finetuning.selection import common_path, literal
from runmodel_ext.finetuning.stages import Stage, Until


class Schedule(ABC):
    """Stages that follow from a model."""

    @abstractmethod
    def stages_for(self, model: nn.Module) -> list[Stage]:
        """Make the stages for a model, to be used, read or changed.

        Raises:
            ScheduleError: If the model has no such parts.
        """


def linear_probe_then_finetune(
    head: str | list[str],
    probe_until: Until | None = None,
    probe_lr: float | None = None,
    finetune_lr: float | None = None,
    exclude: str | list[str] | None = None,
    restore_best: bool = False,
) -> Schedule:
    """Train the head alone, then everything (LP-FT, Kumar et al. 2022, arXiv 2202.10054).

    Args:
        head: Selectors of the head.
        probe_until: How long the head trains alone; half of the fit by default.
        probe_lr: The head's learning rate meanwhile; ``None`` keeps the optimizer's.
        finetune_lr: The rate of everything afterwards, a smaller one as a rule.
        exclude: Selectors of what never trains.
        restore_best: Whether the second stage begins with the head's best weights, by what ``probe_until`` watches.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
        >>> [stage.name for stage in linear_probe_then_finetune("head", finetune_lr=1e-4).stages_for(model)]
        ['probe', 'finetune']
    """
    return _Listed([
        Stage("probe", train=head, exclude=exclude or [], lr=probe_lr, until=probe_until or Until(fraction=0.5),
              restore_best=restore_best),
        Stage("finetune", train="*", exclude=exclude or [], lr=finetune_lr),
    ])  # fmt: skip


def gradual_unfreezing(
    until: Until | None = None,
    lr: float | None = None,
    layer_decay: float | None = None,
    blocks: list[str] | None = None,
    at_once: int = 1,
    exclude: str | list[str] | None = None,
    restore_best: bool = False,
) -> Schedule:
    """Thaw a network from its output to its input, block by block (ULMFiT, Howard and Ruder 2018).

    Args:
        until: How long each stage lasts but the last one, which trains everything; one epoch by default.
        lr: The learning rate; ``None`` keeps the optimizer's.
        layer_decay: Each block further from the output trains at this share of the next one's rate; ULMFiT takes
            1 / 2.6.
        blocks: Selectors of the blocks from the input to the output, where those that
            :func:`~runmodel_ext.finetuning.find_blocks` finds in the module tree are not meant.
        at_once: How many blocks are thawed in each stage, at least 1.
        exclude: Selectors of what never trains.
        restore_best: Whether each stage begins with the best weights of the one before, by what ``until`` watches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> for stage in gradual_unfreezing().stages_for(model):
        ...     print(stage.name, stage.train)
        4 ['4']
        2 ['4', '2']
        0 ['*']
    """
    return _Gradual(until or Until(epochs=1), lr, layer_decay, blocks, at_once, exclude or [], restore_best)


@dataclass
class _Listed(Schedule):
    """Stages that are the same for every model."""

    stages: list[Stage]

    @override
    def stages_for(self, model: nn.Module) -> list[Stage]:
        return list(self.stages)


@dataclass
class _Gradual(Schedule):
    """One stage a block, from the output to the input."""

    until: Until
    lr: float | None = None
    layer_decay: float | None = None
    blocks: list[str] | None = None
    at_once: int = 1
    exclude: str | list[str] = field(default_factory=list)
    restore_best: bool = False

    @override
    def stages_for(self, model: nn.Module) -> list[Stage]:
        if self.at_once < 1:
            raise ScheduleError(f"`at_once` of gradual_unfreezing must be at least 1, but is {self.at_once}.")
        if isinstance(self.blocks, str):
            raise ScheduleError(f"`blocks` of gradual_unfreezing must be a list of selectors, but is {self.blocks!r}.")
        if self.blocks:
            blocks = [[block] for block in self.blocks]
        else:
            blocks = [[literal(path) for path in block] for block in find_blocks(model)]
        if len(blocks) < 2:
            raise ScheduleError(
                f"gradual_unfreezing finds {len(blocks)} block in {type(model).__name__}, and needs 2 or more. "
                "Name them with `blocks`, from the input to the output."
            )
        stages: list[Stage] = []
        thawed: list[str] = []
        steps = [blocks[max(0, end - self.at_once) : end] for end in range(len(blocks), 0, -self.at_once)]
        for place, step in enumerate(steps):
            paths = [path for block in step for path in block]
            thawed += [path for block in reversed(step) for path in block]
            last = place + 1 == len(steps)
            name = common_path(paths) if len(paths) > 1 else paths[0]
            taken = {stage.name for stage in stages}
            name = name if name and name not in taken else paths[0]
            decay = self.layer_decay if place or len(step) > 1 else None
            stages.append(
                Stage(name, train=["*"] if last else list(thawed), exclude=self.exclude, lr=self.lr,
                      until=None if last else self.until, layer_decay=decay,
                      restore_best=self.restore_best and not last)
            )  # fmt: skip
        return stages
