import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from runmodel_ext.errors import ConfigError
from runmodel_ext.networks import CNN, MLP


@pytest.mark.parametrize("hidden", [(), (8,), [8, 4]])
def test_an_mlp_flattens_its_input_and_has_the_layers_asked_for(hidden):
    network = MLP(12, 3, hidden=hidden, dropout=0.5)
    assert network(torch.zeros(2, 3, 4)).shape == (2, 3)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [*hidden, 3]


@pytest.mark.parametrize("side", [2, 8, 33])
def test_a_cnn_takes_images_of_any_side(side):
    assert CNN(in_channels=3, num_classes=5, width=4)(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_hidden_widths_come_from_a_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MLP, "network")
    config = parser.parse_string("network: {in_features: 4, out_features: 2, hidden: [5, 6]}")
    network = parser.instantiate(config).network
    assert network.body[0].weight.shape == (5, 4)
    assert network.head.weight.shape == (2, 6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(0, 1), r"^`in_features` must be at least 1, but is 0\.$"),
        (lambda: MLP(1, 1, hidden=[4, -1]), r"^`hidden\[1\]` must be at least 1, but is -1\.$"),
        (lambda: CNN(width=0), r"^`width` must be at least 1, but is 0\.$"),
        (lambda: CNN(dropout=1.0), r"^`dropout` must be at least 0 and less than 1, but is 1\.$"),
    ],
)
def test_sizes_out_of_range_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
