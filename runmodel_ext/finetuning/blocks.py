"""The blocks of a network, from the input to the output, found from its module tree."""

from torch import nn

_STACKS = (nn.Sequential, nn.ModuleList)


def find_blocks(model: nn.Module) -> list[list[str]]:
    """Find the blocks of a network, in the order in which its modules are defined.

    A module that holds one other alone is looked through; stacks (``Sequential``, ``ModuleList``) of modules are
    taken apart, and so is what holds such a stack. A norm, and whatever else has only parameters of one dimension,
    goes with the block before it; parameters that a module holds beside its blocks go with the first of them.

    Returns:
        Of each block, the paths of its modules and parameters; a parameter stands in exactly one block, a shared one
        in that nearest to the output.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
        >>> find_blocks(net)
        [['0', '1'], ['3']]
    """
    blocks: list[list[str]] = []
    loose: list[str] = []
    for path, module in _taken_apart(model, ""):
        if module is None:
            loose.append(path)
        elif blocks and _is_small(module):
            blocks[-1].append(path)
        else:
            blocks.append([path])
    if blocks and loose:
        blocks[0][:0] = loose
    return blocks


def _taken_apart(module: nn.Module, path: str) -> list[tuple[str, nn.Module | None]]:
    """The parts of a module, each with its path; parameters of its own have no module."""
    prefix = f"{path}." if path else ""
    parts: list[tuple[str, nn.Module | None]] = [
        (f"{prefix}{name}", None) for name, _ in module.named_parameters(recurse=False)
    ]
    children = _children(module)
    for name, child in children:
        inner = f"{prefix}{name}"
        if _children(child) and (len(children) == 1 or isinstance(child, _STACKS) or _holds_a_stack(child)):
            parts += _taken_apart(child, inner)
        else:
            parts.append((inner, child))
    return parts


def _holds_a_stack(module: nn.Module) -> bool:
    return any(_is_stack(child) or _holds_a_stack(child) for _, child in _children(module))


def _is_stack(module: nn.Module) -> bool:
    # A shortcut of a convolution and a norm is a stack of leaves, and part of its block.
    items = _children(module)
    return isinstance(module, _STACKS) and sum(bool(_children(item)) for _, item in items) >= 2


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    if len(children) == 1 and children[0][0] == "_orig_mod":  # torch.compile's wrapper, which has no name of its own
        return _children(children[0][1])
    return children


def _is_small(module: nn.Module) -> bool:
    return all(parameter.ndim <= 1 for parameter in module.parameters())
