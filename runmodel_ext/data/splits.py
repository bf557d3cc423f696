"""Train, validation and test parts that are the same on every machine and in every run."""

from collections.abc import Sequence

import torch


def stratified_split(
    labels: Sequence[int], val_fraction: float, test_fraction: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Split positions so that each label has its share in each part; each part keeps the given order.

    Args:
        labels: The label of each sample; all equal for a plain random split.
        val_fraction: Share of each label that validates.
        test_fraction: Share of each label that tests.
        seed: Which of the possible splits.

    Example:
        >>> train, val, test = stratified_split([0] * 10 + [1] * 20, 0.2, 0.1, seed=0)
        >>> len(train), len(val), len(test), sum(place < 10 for place in val)
        (21, 6, 3, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in sorted(set(labels)):
        places = [place for place, other in enumerate(labels) if other == label]
        order = torch.randperm(len(places), generator=generator).tolist()
        first, second = round(len(places) * val_fraction), round(len(places) * (val_fraction + test_fraction))
        for part, chosen in zip(parts, (order[second:], order[:first], order[first:second]), strict=True):
            part.extend(places[place] for place in chosen)
    for part in parts:
        part.sort()
    return parts
