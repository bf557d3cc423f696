import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch import nn
from torchmetrics.classification import MulticlassAUROC

from runmodel_ext.errors import ConfigError
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import MLP


def test_multiclass_scores_agree_with_scikit_learn(make_trainer, digits, loader):
    images, labels = digits
    module = ClassificationModule(MLP(64, 10), 10, metrics={"auroc": MulticlassAUROC(10)})
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, loader(*digits))
    scores = trainer.test(module, loader(*digits), verbose=False)[0]
    with torch.no_grad():
        probability = module(images).softmax(-1)
    assert scores["test/acc"] == pytest.approx(accuracy_score(labels, probability.argmax(-1)))
    assert scores["test/f1"] == pytest.approx(f1_score(labels, probability.argmax(-1), average="macro"))
    assert scores["test/auroc"] == pytest.approx(roc_auc_score(labels, probability, multi_class="ovr"), abs=1e-4)
    expected = nn.functional.cross_entropy(probability.log(), labels)
    assert scores["test/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("column", [False, True])
def test_binary_scores_agree_with_scikit_learn(make_trainer, digits, loader, column):
    images, labels = digits[0], (digits[1] > 4).long()
    target = labels.unsqueeze(1) if column else labels
    module = ClassificationModule(MLP(64, 1), num_classes=2, task="binary")
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, loader(images, target))
    scores = trainer.test(module, loader(images, target), verbose=False)[0]
    with torch.no_grad():
        predicted = (module(images).squeeze(1) > 0).long()
    assert scores["test/acc"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["test/f1"] == pytest.approx(f1_score(labels, predicted))
    rows = module.predict_step((images, target), 0)
    assert {name: tuple(row.shape) for name, row in rows.items()} == dict.fromkeys(rows, (203,))
    assert torch.equal(rows["prediction"], predicted)
    assert torch.equal(rows["target"], labels)


def test_multilabel_scores_agree_with_scikit_learn(make_trainer, digits, loader):
    images = digits[0]
    labels = torch.stack([digits[1] > 4, digits[1] % 2 == 0, digits[1] < 2], dim=1).long()
    module = ClassificationModule(MLP(64, 3), num_classes=3, task="multilabel")
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, loader(images, labels))
    scores = trainer.test(module, loader(images, labels), verbose=False)[0]
    with torch.no_grad():
        predicted = (module(images) > 0).long()
    assert scores["test/acc"] == pytest.approx((predicted == labels).float().mean().item())
    assert scores["test/f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


def test_predictions_are_rows_of_a_table(make_trainer, digits, loader):
    rows = make_trainer().predict(ClassificationModule(MLP(64, 10), 10), loader(*digits))
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    assert torch.equal(joined["target"], digits[1])
    assert joined["probability"].shape == (203, 10)
    assert torch.equal(joined["score"], joined["probability"].gather(1, joined["prediction"][:, None])[:, 0])


@pytest.mark.parametrize(
    ("task", "num_classes", "message"),
    [
        ("multiclass", 1, r"^`num_classes` must be at least 2 for task 'multiclass', but is 1\.$"),
        (
            "binary",
            3,
            r"^`num_classes` must be 2 for task 'binary', whose network has one output, but is 3\.$",
        ),
        ("multilabel", 0, r"^`num_classes` must be at least 1 for task 'multilabel', but is 0\.$"),
        ("ordinal", 3, r"^`task` must be 'multiclass', 'binary' or 'multilabel', but is 'ordinal'\.$"),
    ],
)
def test_a_task_and_a_number_of_classes_that_do_not_fit_are_refused(task, num_classes, message):
    with pytest.raises(ConfigError, match=message):
        ClassificationModule(nn.Identity(), num_classes, task)


@pytest.mark.parametrize(
    ("task", "num_classes", "expected"),
    [("multiclass", 10, r"\(batch, 10\)"), ("binary", 2, r"\(batch,\) or \(batch, 1\)")],
)
def test_an_output_of_the_wrong_width_is_named_at_the_first_batch(
    make_trainer, digits, loader, task, num_classes, expected
):
    module = ClassificationModule(MLP(64, 7), num_classes, task)
    message = rf"^forward of ClassificationModule gave an output of shape \(32, 7\), but .* expects {expected}\."
    with pytest.raises(ConfigError, match=message):
        make_trainer().fit(module, loader(*digits))
