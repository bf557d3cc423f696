"""The blocks of a network, from the input to the output, found from its module tree."""

from torch import nn

_STACKS = (nn.Sequential, nn.ModuleList)


def find_blocks(model: nn.Module) -> list[list[str]]:
    """Find the blocks of a network, in the order in which its modules are defined.

    From the model downwards, a module that holds one other alone is looked through; stacks (``Sequential``,
    ``ModuleList``) of modules are taken apart, and so is what holds such a stack. A norm, and whatever else has only
    parameters of one dimension, goes with the block before it; parameters that a module holds beside its blocks go
    with the first of them.

    Returns:
        Of each block, the paths of its modules and parameters. Together they hold all parameters; one that is shared
        counts for the block nearest to the output, and what holds nothing else is left out before that.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
        >>> find_blocks(net)
        [['0', '1'], ['3']]
    """
    blocks: list[list[str]] = []
    waiting: list[str] = []
    for path, part in _without_shared(_taken_apart(model, "")):
        if isinstance(part, nn.Parameter) or (not blocks and _is_small(part)):
            waiting.append(path)
        elif _is_small(part):
            blocks[-1].append(path)
        else:
            blocks.append([*waiting, path])
            waiting = []
    if blocks:
        blocks[-1] += waiting
    elif waiting:
        blocks.append(waiting)
    return blocks


def _taken_apart(module: nn.Module, path: str, alone: bool = True) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """The modules and parameters that a module is made of, each with its path."""
    prefix = f"{path}." if path else ""
    parts: list[tuple[str, nn.Module | nn.Parameter]] = [
        (f"{prefix}{name}", parameter) for name, parameter in module.named_parameters(recurse=False)
    ]
    children = _children(module)
    alone = alone and len(children) == 1
    for name, child in children:
        inner = f"{prefix}{name}"
        if _children(child) and (alone or isinstance(child, _STACKS) or _holds_a_stack(child)):
            parts += _taken_apart(child, inner, alone)
        else:
            parts.append((inner, child))
    return parts


def _without_shared(
    parts: list[tuple[str, nn.Module | nn.Parameter]],
) -> list[tuple[str, nn.Module | nn.Parameter]]:
    kept = []
    later: set[int] = set()
    for path, part in reversed(parts):
        own = {id(part)} if isinstance(part, nn.Parameter) else {id(parameter) for parameter in part.parameters()}
        if own - later:
            kept.append((path, part))
        later |= own
    return kept[::-1]


def _holds_a_stack(module: nn.Module) -> bool:
    return any(_is_stack(child) or _holds_a_stack(child) for _, child in _children(module))


def _is_stack(module: nn.Module) -> bool:
    # A convolution with its norm is a `Sequential` of leaves, and several of them are part of one block.
    deep = [item for _, item in _children(module) if _children(item)]
    blocks = [item for item in deep if not isinstance(item, nn.Sequential) or _is_stack(item)]
    return isinstance(module, _STACKS) and len(blocks) >= 2


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    if len(children) == 1 and children[0][0] == "_orig_mod":  # torch.compile's wrapper, which has no name of its own
        return _children(children[0][1])
    return children


def _is_small(module: nn.Module) -> bool:
    return all(parameter.ndim <= 1 for parameter in module.parameters())
