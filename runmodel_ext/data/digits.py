"""Real handwritten digits."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset
from typing_extensions import override

from runmodel_ext.data.loaders import Augmented, LoadersModule
from runmodel_ext.data.splits import stratified_split
from runmodel_ext.errors import MissingExtraError


class Digits(LoadersModule):
    """1,797 digits written by hand: float images (1, 8, 8) in ``[0, 1]``, classes 0 to 9.

    Of each class 60% train, 20% validate and 20% test; prediction runs over the test part. The split has a
    seed of its own, so the seed of a run changes the training and never the samples that it is judged by.

    Args:
        batch_size: Samples in a batch, at least 1.
        augment: Whether training images are shifted by up to a pixel in each direction, anew in each epoch.
        split_seed: Which split.
        num_workers: Processes that load; changes no result.

    Raises:
        ConfigError: If an argument is outside its range.
        MissingExtraError: If scikit-learn is not installed.

    Example:
        >>> data = Digits(batch_size=32)
        >>> data.setup()
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> tuple(images.shape), tuple(labels.shape)
        ((32, 1, 8, 8), (32,))
    """

    num_classes = 10

    def __init__(self, batch_size: int = 64, augment: bool = False, split_seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.augment = augment
        self.split_seed = split_seed

    @override
    def setup(self, stage: str | None = None) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingExtraError(
                "Digits needs scikit-learn, which is not installed: pip install 'runmodel_ext[data]'."
            ) from error
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        parts = stratified_split(labels.tolist(), 0.2, 0.2, self.split_seed)
        train, self.val_set, self.test_set = (TensorDataset(images[part], labels[part]) for part in parts)
        self.train_set = Augmented(train, shift) if self.augment else train


def shift(image: Tensor, generator: torch.Generator) -> Tensor:
    """Move an image by -1, 0 or 1 pixels in each direction; what comes in is 0.

    Example:
        >>> shift(torch.ones(1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 8, 8])
    """
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    return functional.pad(image, (1, 1, 1, 1))[..., down : down + height, right : right + width]
