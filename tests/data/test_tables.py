import builtins
import subprocess
import sys
from typing import Any

import pytest
import torch

from runmodel_ext.data import Diabetes, Digits
from runmodel_ext.data.splits import stratified_split
from runmodel_ext.errors import MissingExtraError
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import CNN


def parts_of(data: Any) -> list[tuple[torch.Tensor, ...]]:
    data.setup()
    return [part.tensors for part in (data.train_set, data.val_set, data.test_set)]


def test_the_digits_are_all_there_in_stratified_parts_that_no_seed_of_a_run_moves():
    torch.manual_seed(1)
    parts = parts_of(Digits())
    torch.manual_seed(2)
    again = parts_of(Digits())
    assert [len(labels) for _, labels in parts] == [1078, 359, 360]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(parts, again, strict=True))
    assert not torch.equal(parts[2][0][:50], parts_of(Digits(split_seed=1))[2][0][:50])
    for images, labels in parts:
        assert images.shape[1:] == (1, 8, 8)
        assert (images.min(), images.max()) == (0, 1)
        share = labels.bincount(minlength=10) / len(labels)
        assert share.min() > 0.09
        assert share.max() < 0.11


def test_the_default_network_reads_the_digits(make_trainer):
    trainer = make_trainer(max_epochs=12)
    module, data = ClassificationModule(CNN(), num_classes=10, lr=3e-3), Digits()
    trainer.fit(module, data)
    assert trainer.test(module, data, verbose=False)[0]["test/acc"] >= 0.98


def test_shifted_digits_keep_their_labels():
    data = Digits(augment=True, batch_size=2000)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (1078, 1, 8, 8)
    assert torch.equal(labels.bincount(), parts_of(Digits())[0][1].bincount())


def test_diabetes_is_standardised_by_its_training_part_and_keeps_the_targets_units():
    train, val, test = parts_of(Diabetes())
    assert [len(target) for _, target in (train, val, test)] == [265, 88, 89]
    assert train[0].mean(dim=0).abs().max() < 1e-5
    assert (train[0].std(dim=0) - 1).abs().max() < 1e-5
    assert val[0].mean(dim=0).abs().max() > 1e-3
    assert 140 < train[1].mean() < 165
    assert 70 < train[1].std() < 85


def test_a_split_is_a_partition_even_of_a_class_with_one_sample():
    labels = [0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    parts = stratified_split(labels, 0.25, 0.25, seed=0)
    assert sorted(place for part in parts for place in part) == list(range(10))
    assert 0 in parts[0]


@pytest.mark.parametrize("data", [Digits, Diabetes])
def test_without_scikit_learn_one_sentence_says_what_to_install(data, monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    message = rf"^{data.__name__} needs scikit-learn, which is not installed: pip install 'runmodel_ext\[data\]'\.$"
    with pytest.raises(MissingExtraError, match=message):
        data().setup()


def test_importing_the_training_wing_imports_neither_scikit_learn_nor_pillow():
    # Lightning itself imports what it finds; only what comes on top is ours.
    code = (
        "import sys, lightning.pytorch, lightning.pytorch.cli, torchmetrics; before = set(sys.modules)\n"
        "import runmodel_ext.data, runmodel_ext.modules, runmodel_ext.networks\n"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('sklearn', 'scipy', 'PIL')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
