"""Modules held in eval mode, and what they were before."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class Modes:
    """Holds modules in eval mode while a stage asks for it.

    Modules that are not held are left alone: those that a user has in eval mode stay there.

    Args:
        modules: The modules of a model, by their paths.

    Attributes:
        held: The modules that are held in eval mode.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> modes = Modes(dict(model.named_modules()))
        >>> modes.hold(["0"])
        >>> model[0].training, model[1].training
        (False, False)
        >>> modes.hold([])
        >>> model[0].training, model[1].training
        (True, False)
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._before: dict[int, tuple[nn.Module, bool]] = {}
        self._hooks: list[RemovableHandle] = []
        self.held: list[nn.Module] = []

    def hold(self, paths: Iterable[str]) -> None:
        """Hold these modules, and none beside them: the others are again in the mode in which they were."""
        chosen = set(paths)
        wanted = {id(self._modules[path]): self._modules[path] for path in sorted(chosen)}
        for key in [key for key in self._before if key not in wanted]:
            module, before = self._before.pop(key)
            module.training = before
        for key, module in wanted.items():
            self._before.setdefault(key, (module, module.training))
        self.held = list(wanted.values())
        self.hold_again()
        for hook in self._hooks:
            hook.remove()
        # The model's own hook at a batch's start, and its training step, come after all hooks of callbacks.
        tops = [self._modules[path] for path in chosen if path.rpartition(".")[0] not in chosen]
        tops = [top for top in tops if not isinstance(top, torch.jit.ScriptModule)]  # which takes no hooks
        guard = _Guard(self.held)
        self._hooks = [module.register_forward_pre_hook(guard) for module in {id(top): top for top in tops}.values()]

    def hold_again(self) -> None:
        """Put the held modules into eval mode again, after somebody has called ``train()``."""
        for module in self.held:
            module.training = False


class _Guard:
    """Puts the held modules into eval mode before one of them is called; a copy of them is free."""

    def __init__(self, held: Sequence[nn.Module] = ()) -> None:
        self._held = held

    def __call__(self, module: nn.Module, args: object) -> None:
        if module.training:
            for each in self._held:
                each.training = False

    def __deepcopy__(self, memo: object) -> "_Guard":
        return _Guard()

    def __reduce__(self) -> tuple[type["_Guard"], tuple[()]]:
        return _Guard, ()
