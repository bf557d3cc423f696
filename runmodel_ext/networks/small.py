"""Two small networks that train in seconds on a CPU."""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from runmodel_ext.errors import ConfigError


class MLP(nn.Module):
    """Linear layers with ReLU between them; inputs of more dimensions are flattened.

    Args:
        in_features: Numbers in one sample, all dimensions together.
        out_features: Numbers that come out.
        hidden: Width of each hidden layer; none makes a linear model.
        dropout: Share of each hidden layer that is dropped in training, in ``[0, 1)``.

    Raises:
        ConfigError: If a width is less than 1, or ``dropout`` outside its range.

    Example:
        >>> import torch
        >>> MLP(64, 10, hidden=[32, 16])(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int] = (64,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        _require_widths(in_features=in_features, out_features=out_features)
        _require_widths(**{f"hidden[{place}]": width for place, width in enumerate(hidden)})
        _require_share(dropout)
        body = nn.Sequential()
        for width in hidden:
            body.append(nn.Linear(in_features, width)).append(nn.ReLU())
            if dropout:
                body.append(nn.Dropout(dropout))
            in_features = width
        self.body = body
        self.head = nn.Linear(in_features, out_features)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(batch, ...)`` to ``(batch, out_features)``."""
        output: Tensor = self.head(self.body(inputs.flatten(1)))
        return output


class CNN(nn.Module):
    """Two blocks of convolution, BatchNorm and ReLU, pooled over the image, then one linear layer.

    Args:
        in_channels: Channels of the image.
        num_classes: Numbers that come out.
        width: Channels of the first block; the second has twice as many.
        dropout: Share of the pooled features that is dropped in training, in ``[0, 1)``.

    Raises:
        ConfigError: If a width is less than 1, or ``dropout`` outside its range.

    Example:
        >>> import torch
        >>> CNN(in_channels=3, num_classes=2)(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2])
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        _require_widths(in_channels=in_channels, num_classes=num_classes, width=width)
        _require_share(dropout)
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(8 * width, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Map ``(batch, in_channels, height, width)`` to ``(batch, num_classes)``; sides are at least 2."""
        output: Tensor = self.head(self.body(images))
        return output


def _require_widths(**widths: int) -> None:
    for name, width in widths.items():
        if width < 1:
            raise ConfigError(f"`{name}` must be at least 1, but is {width}.")


def _require_share(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ConfigError(f"`dropout` must be at least 0 and less than 1, but is {dropout:g}.")
