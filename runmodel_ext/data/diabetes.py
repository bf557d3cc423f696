"""Progression of diabetes, for regression."""

import torch
from torch.utils.data import TensorDataset
from typing_extensions import override

from runmodel_ext.data.loaders import LoadersModule
from runmodel_ext.data.splits import stratified_split
from runmodel_ext.errors import MissingExtraError


class Diabetes(LoadersModule):
    """442 patients, which scikit-learn ships: 10 measurements, and how far the disease was a year later.

    60% train, 20% validate and 20% test, split by a seed of its own; prediction runs over the test part.
    Features have mean 0 and standard deviation 1 over the training part. The target keeps its units (25 to
    346): give ``target_mean: 152`` and ``target_std: 77`` to :class:`~runmodel_ext.modules.RegressionModule`.

    Args:
        batch_size: Samples in a batch, at least 1.
        split_seed: Which split.
        num_workers: Processes that load; changes no result.

    Raises:
        ConfigError: If an argument is outside its range.
        MissingExtraError: If scikit-learn is not installed.

    Example:
        >>> data = Diabetes()
        >>> data.setup()
        >>> features, target = next(iter(data.train_dataloader()))
        >>> tuple(features.shape), tuple(target.shape)
        ((32, 10), (32,))
    """

    num_features = 10

    def __init__(self, batch_size: int = 32, split_seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.split_seed = split_seed

    @override
    def setup(self, stage: str | None = None) -> None:
        try:
            from sklearn.datasets import load_diabetes
        except ImportError as error:
            raise MissingExtraError(
                "Diabetes needs scikit-learn, which is not installed: pip install 'runmodel_ext[data]'."
            ) from error
        table = load_diabetes(scaled=False)
        features, target = torch.from_numpy(table.data), torch.from_numpy(table.target).float()
        parts = stratified_split([0] * len(target), 0.2, 0.2, self.split_seed)
        mean, std = features[parts[0]].mean(dim=0), features[parts[0]].std(dim=0)
        features = ((features - mean) / std).float()
        sets = [TensorDataset(features[part], target[part]) for part in parts]
        self.train_set, self.val_set, self.test_set = sets
