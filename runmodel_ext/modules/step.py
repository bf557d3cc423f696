"""The values that travel through one step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Phase = Literal["train", "validate", "test", "predict"]


@dataclass(slots=True)
class Step:
    """One batch on its way through a module, from ``prepare_batch`` to ``log_scores``.

    Each named step of a :class:`~runmodel_ext.modules.SupervisedModule` reads what the steps before it left
    here and fills in its own field; what has not been reached yet is ``None``.

    Attributes:
        phase: What the Trainer is doing: ``train``, ``validate``, ``test`` or ``predict``.
        batch: The batch as the loader gave it, on the module's device.
        batch_idx: Its position in the epoch.
        dataloader_idx: Which of several loaders it came from.
        inputs: What goes into ``forward``: a tensor, a tuple or a dict of them, ``batch_size`` long.
        target: What ``forward`` should give; ``None`` where the batch has no target.
        output: What ``forward`` gave, as the network left it (logits, not probabilities).
        loss: A scalar with its graph; ``None`` while predicting.
        prediction: Tensors of length ``batch_size`` by name, one row a sample; ``None`` in training, unless
            training metrics were asked for.

    Example:
        >>> import torch
        >>> step = Step("train", batch=None, batch_idx=0, inputs={"image": torch.zeros(4, 1, 8, 8)})
        >>> step.batch_size
        4
    """

    phase: Phase
    batch: Any
    batch_idx: int
    dataloader_idx: int = 0
    inputs: Any = None
    target: Any = None
    output: Any = None
    loss: Tensor | None = None
    prediction: dict[str, Tensor] | None = None

    @property
    def batch_size(self) -> int:
        """How many samples the batch holds, read from the first tensor among output, target and inputs."""
        for values in (self.output, self.target, self.inputs):
            tensor = _first_tensor(values)
            if tensor is not None and tensor.ndim > 0:
                return len(tensor)
        return 1


def _first_tensor(values: Any) -> Tensor | None:
    if isinstance(values, Tensor):
        return values
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return next((found for value in values if (found := _first_tensor(value)) is not None), None)
    return None
