"""Tensors of a model that are kept aside: the best weights of a stage, and gradients that wait for a step."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runmodel_ext.finetuning.plan import Plan


def keep_weights(plan: Plan, index: int, model: nn.Module) -> dict[str, Tensor]:
    """Copy what a stage can change: the parameters that train in it, and all buffers."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _changing(plan, index, model)}


@torch.no_grad()
def put_back(kept: dict[str, Tensor], plan: Plan, index: int, model: nn.Module) -> None:
    """Give a model back what :func:`keep_weights` copied."""
    for name, tensor in _changing(plan, index, model):
        if name in kept:
            tensor.copy_(kept[name])


def keep_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copy the gradients that are there, by the parameter's name."""
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def put_back_gradients(kept: dict[str, Tensor], model: nn.Module) -> None:
    """Give parameters that train the gradients that :func:`keep_gradients` copied."""
    for name, parameter in model.named_parameters():
        if name in kept and parameter.requires_grad:
            parameter.grad = kept[name].to(parameter.device, parameter.dtype)


def _changing(plan: Plan, index: int, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for n in sorted(plan.stages[index].trained):
        leaf = plan.tree.leaves[n]
        yield f"parameter:{leaf.name}", leaf.parameter
    for name, buffer in model.named_buffers():
        yield f"buffer:{name}", buffer
