"""Tensors of a model that are kept aside: the best weights of a stage, and gradients that wait for a step."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runmodel_ext.finetuning.plan import Plan
from runmodel_ext.finetuning.sharded import gathered, local, spread


def keep_weights(plan: Plan, index: int, model: nn.Module) -> dict[str, Tensor]:
    """Copy what a stage can change: the parameters that train in it, and all buffers."""
    return {name: local(tensor.detach()).cpu().clone() for name, tensor in _changing(plan, index, model)}


@torch.no_grad()
def put_back(kept: dict[str, Tensor], plan: Plan, index: int, model: nn.Module) -> None:
    """Give a model back what :func:`keep_weights` copied."""
    for name, tensor in _changing(plan, index, model):
        if name in kept:
            local(tensor).copy_(kept[name])


def gather_weights(kept: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """What :func:`keep_weights` copied, for a checkpoint: the whole of what is sharded."""
    shards = _sharded(plan)
    return {name: gathered(tensor, shards[name]) if name in shards else tensor for name, tensor in kept.items()}


def share_weights(saved: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """What this rank keeps of what :func:`gather_weights` gave."""
    shards = _sharded(plan)
    return {
        name: local(spread(tensor, shards[name])).cpu() if name in shards else tensor for name, tensor in saved.items()
    }


def _sharded(plan: Plan) -> dict[str, Tensor]:
    return {f"parameter:{leaf.name}": leaf.parameter for leaf in plan.tree.leaves}


def keep_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copy the gradients that are there, by the parameter's name; all ranks call it where they are sharded."""
    return {
        name: gathered(local(parameter.grad.detach()).cpu().clone(), parameter)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def put_back_gradients(kept: dict[str, Tensor], model: nn.Module) -> None:
    """Give parameters that train the gradients that :func:`keep_gradients` copied."""
    for name, parameter in model.named_parameters():
        if name in kept and parameter.requires_grad:
            parameter.grad = spread(kept[name], parameter)


def _changing(plan: Plan, index: int, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for n in sorted(plan.stages[index].trained):
        leaf = plan.tree.leaves[n]
        yield f"parameter:{leaf.name}", leaf.parameter
    for name, buffer in model.named_buffers():
        yield f"buffer:{name}", buffer
