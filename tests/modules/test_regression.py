import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from runmodel_ext.data import Diabetes
from runmodel_ext.errors import ConfigError
from runmodel_ext.modules import RegressionModule
from runmodel_ext.networks import MLP


def test_metrics_and_predictions_are_in_units_and_agree_with_scikit_learn(make_trainer):
    module = RegressionModule(MLP(10, 1), target_mean=152, target_std=77, lr=0.01)
    trainer = make_trainer(max_epochs=10)
    data = Diabetes()
    trainer.fit(module, data)
    scores = trainer.test(module, data, verbose=False)[0]
    rows = trainer.predict(module, data)
    target, predicted = (torch.cat([row[name] for row in rows]) for name in ("target", "prediction"))
    assert 25 <= predicted.min() < predicted.max() <= 346
    assert scores["test/mae"] == pytest.approx(mean_absolute_error(target, predicted), rel=1e-5)
    assert scores["test/rmse"] == pytest.approx(root_mean_squared_error(target, predicted), rel=1e-5)
    assert scores["test/r2"] == pytest.approx(r2_score(target, predicted), rel=1e-4)
    assert scores["test/r2"] > 0.3
    assert scores["test/loss"] == pytest.approx((scores["test/rmse"] / 77) ** 2, rel=1e-4)


def test_the_units_travel_with_the_weights():
    module = RegressionModule(MLP(10, 2), target_mean=[1.0, 2.0], target_std=[3.0, 4.0])
    other = RegressionModule(MLP(10, 2), target_mean=[0.0, 0.0], target_std=[1.0, 1.0])
    other.load_state_dict(module.state_dict())
    features = torch.randn(5, 10)
    assert torch.equal(other.predict_step(features, 0)["score"], module.predict_step(features, 0)["score"])


def test_an_output_that_would_broadcast_over_the_target_is_refused():
    module = RegressionModule(MLP(10, 2))
    message = r"gave an output of shape \(4, 2\), but the target of shape \(4,\) expects the same, or \(4, 1\)\."
    with pytest.raises(ConfigError, match=message):
        module.training_step((torch.zeros(4, 10), torch.zeros(4)), 0)


def test_a_standard_deviation_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"^`target_std` must be greater than 0, but is 0\.0\.$"):
        RegressionModule(MLP(10, 1), target_std=0.0)
