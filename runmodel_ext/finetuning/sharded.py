"""Parameters that are sharded among ranks (FSDP2): what torch must be told when others train, and their checkpoints.

The strategy saves and restores the optimizers' states itself, by the names of the parameters, and asks for a state of
each parameter that has a gradient when the fit starts. So the optimizers keep the user's own groups until a
checkpoint is restored, and a checkpoint holds a state for each parameter, as it would without stages; those that have
none are named beside it.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runmodel_ext.finetuning.groups import Layout
from runmodel_ext.finetuning.plan import Plan
from runmodel_ext.finetuning.saved_states import OriginalGroups


def hold_shards(model: nn.Module) -> None:
    """Let a model hold the shards of its parameters, as the optimizers do, and no whole ones of a forward pass."""
    for module in _sharded_modules(model):
        module.reshard()


def show_what_trains(model: nn.Module) -> None:
    """Let torch see which shards have gradients.

    The whole parameters take over ``requires_grad`` when they are gathered, and with it the types in which gradients
    are reduced, which nobody knows of a module that was frozen at its first pass.
    """
    for module in _sharded_modules(model):
        module.reshard()
        module.unshard()
        module.reshard()


def problems_of_sharding(optimizers: Sequence[Optimizer]) -> Iterator[str]:
    """What cannot be had where parameters are sharded, in sentences."""
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            yield (
                "StagedFinetuning cannot work with LBFGS where parameters are sharded: it keeps one vector over all "
                "of them. Take another optimizer, or `strategy: ddp`."
            )


def notes_of_sharding(plan: Plan) -> Iterator[str]:
    """What a user should know of a model whose parameters are sharded, in sentences."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    own = [path for path, module in plan.tree.modules.items() if isinstance(module, kinds)]
    moving = [path for path in own if any(path not in planned.in_eval for planned in plan.stages)]
    if moving:
        yield (
            f"'{moving[0]}' has the statistics of its own data on each rank until it is frozen, and a checkpoint holds "
            "those of one rank. Take SyncBatchNorm for a resume to the same bits."
        )


def offer_all(plan: Plan, optimizers: Sequence[Optimizer], layouts: Sequence[Layout]) -> None:
    """Let the optimizers hold all that ever trains, with a gradient, as the strategy asks of what it restores."""
    for n in plan.ever_trained:
        plan.tree.leaves[n].parameter.requires_grad_(True)
    for optimizer, layout in zip(optimizers, layouts, strict=True):
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for part in layout.parts:
            group = optimizer.param_groups[part.origin]
            for leaf in (plan.tree.leaves[n] for n in part.leaves if n >= 0):
                if id(leaf.parameter) not in held:
                    group["params"].append(leaf.parameter)
                    if "param_names" in group:
                        group["param_names"].append(leaf.name)


def complete_state(
    original: OriginalGroups,
    checkpoint: Mapping[str, Any],
    place: int,
    own_rates: Sequence[float],
    fresh: Mapping[int, Any],
) -> tuple[dict[str, Any], dict[str, None]]:
    """An optimizer's state as the strategy restores it: in the user's groups, with a state for each parameter.

    All ranks call it. Where one file is saved for all, ranks other than 0 have nothing to save.

    Args:
        original: The user's groups.
        checkpoint: The checkpoint, in which the strategy has put the states of the split optimizers.
        place: The number of the optimizer.
        own_rates: The optimizer's own learning rate in each part.
        fresh: The state that a parameter had when the optimizer was built, by the parameter's number.

    Returns:
        The state, and the names of the parameters that have none in truth.
    """
    optimizer, tree = original.optimizer, original.plan.tree
    state = checkpoint["optimizer_states"][place]
    keys = original.numbers(state) if state else {}
    if any(isinstance(key, int) for key in keys.values()):  # the strategy has put the members of groups in order
        keys = {id(leaf.parameter): n for n, leaf in enumerate(tree.leaves)}
    added: dict[Any, Any] = {}
    without: dict[str, None] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            n = tree.number(parameter)
            if n is None or optimizer.state.get(parameter):
                continue
            made = fresh[n] if n in fresh else _first_state(optimizer, group, parameter)
            if made:
                without[tree.leaves[n].name] = None
                added[keys.get(id(parameter))] = made
    if not state:
        return {}, without
    if not any(_shard(value) is not None for value in checkpoint["state_dict"].values()):
        added = {key: {name: _whole_like(value) for name, value in made.items()} for key, made in added.items()}
    groups = original.merged_groups(state, own_rates, keys)
    return {**state, "state": {**state["state"], **added}, "param_groups": groups}, without


def drop_states(original: OriginalGroups, names: Mapping[str, Any]) -> None:
    """Take the states away that :func:`complete_state` has added."""
    for leaf in original.plan.tree.leaves:
        if leaf.name in names and names[leaf.name] is None:
            original.optimizer.state.pop(leaf.parameter, None)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank: all of it where it is not sharded."""
    shard = _shard(tensor)
    part: Tensor = tensor if shard is None else shard.to_local()
    return part


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which each rank has a part, on the CPU; all ranks call it.

    Args:
        part: The part of this rank.
        like: A tensor that is sharded likewise, or not at all.
    """
    shard = _shard(like)
    if shard is None:
        return part
    from torch.distributed.tensor import DTensor

    mesh, shape, stride = shard.device_mesh, shard.shape, shard.stride()
    whole = DTensor.from_local(part.to(like.device), mesh, shard.placements, shape=shape, stride=stride)
    return whole.full_tensor().cpu()


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """What :func:`gathered` gave, sharded as it was; all ranks call it."""
    shard = _shard(like)
    if shard is None:
        return whole.to(like.device, like.dtype)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device, like.dtype), shard.device_mesh, shard.placements)


def _sharded_modules(model: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _shard(tensor: Tensor) -> Any:
    return tensor if hasattr(tensor, "device_mesh") else None


def _first_state(optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    """The state that the optimizer would give to a parameter at its first step, as torch makes it when it restores."""
    nobody = nn.Parameter(torch.zeros_like(parameter))
    nobody.grad = torch.zeros_like(nobody)
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [nobody]}]
    twin.step()
    return dict(twin.state[nobody])


def _whole_like(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.cpu() if _shard(value) is None else torch.zeros(value.shape, dtype=value.dtype)
