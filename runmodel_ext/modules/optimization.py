"""Which parameters decay, and the optimizer and scheduler over them."""

import inspect
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from runmodel_ext.errors import ConfigError

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split a module's parameters into those that decay and those that do not.

    Norms, biases and every other parameter of at most one dimension are spared. A parameter that occurs at
    several places is one parameter, and stands in one group. Frozen parameters stay in, for they may be
    thawed later.

    Returns:
        One or two parameter groups; the second says ``weight_decay`` 0, the first takes the optimizer's own.

    Example:
        >>> groups = decay_groups(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)))
        >>> [len(group["params"]) for group in groups], groups[1]["weight_decay"]
        ([1, 3], 0.0)
    """
    norms = (child for child in module.modules() if isinstance(child, _NORMS))
    spared = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
    for name, parameter in module.named_parameters():
        if parameter.ndim <= 1 or name.rpartition(".")[2] == "bias":
            spared.add(id(parameter))
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if id(parameter) not in spared]},
        {"params": [parameter for parameter in parameters if id(parameter) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(factory: OptimizerCallable | None, groups: list[dict[str, Any]], lr: float | None) -> Optimizer:
    """Build the optimizer (AdamW by default); ``lr`` holds in every group that names no rate of its own.

    Raises:
        ConfigError: If ``lr`` and the optimizer's own arguments name two different rates.
    """
    if lr is not None:
        groups = [{"lr": lr, **group} for group in groups]
    optimizer: Optimizer = AdamW(groups) if factory is None else factory(groups)
    own = optimizer.defaults.get("lr")
    parameter = inspect.signature(type(optimizer).__init__).parameters.get("lr")
    untouched = None if parameter is None else parameter.default
    if lr is not None and own not in (None, lr, untouched):
        raise ConfigError(
            f"There are two learning rates: `lr` is {lr:g}, and {type(optimizer).__name__} "
            f"was given lr={own:g}. Set `lr: {own:g}`, or `lr: null` to take the optimizer's own."
        )
    return optimizer


def schedule(
    factory: LRSchedulerCallable,
    optimizer: Optimizer,
    interval: Literal["epoch", "step"],
    monitor: str,
    modes: dict[str, str],
) -> dict[str, Any]:
    """The scheduler in the form that Lightning takes; a plateau watches ``monitor`` unless it names its own.

    Raises:
        ConfigError: If a plateau waits for the watched score to move the wrong way.
    """
    scheduler = factory(optimizer)
    settings: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if isinstance(scheduler, ReduceLROnPlateau):
        watched = settings["monitor"] = str(getattr(scheduler, "monitor", monitor))
        if modes.get(watched, scheduler.mode) != scheduler.mode:
            raise ConfigError(
                f"ReduceLROnPlateau has mode '{scheduler.mode}', but '{watched}' is better towards the "
                f"'{modes[watched]}'. Set its `mode` to '{modes[watched]}'."
            )
    return settings
