"""Counts of passes whose savings are known."""

import torch

from mobilellama.pretrain.planning.saved import bytes_saved


def test_a_linear_layer_saves_its_input_and_not_its_weight() -> None:
    layer, x = torch.nn.Linear(8, 4), torch.ones(5, 8)
    assert bytes_saved(layer, lambda: layer(x)) == 5 * 8 * 4


def test_a_tensor_that_is_saved_twice_counts_once() -> None:
    layer, x = torch.nn.Linear(8, 8), torch.ones(5, 8)
    assert bytes_saved(layer, lambda: (layer(x), layer(x[:, :]))) == 5 * 8 * 4


def test_without_gradients_nothing_is_saved() -> None:
    layer = torch.nn.Linear(8, 4).requires_grad_(False)
    assert bytes_saved(layer, lambda: layer(torch.ones(5, 8))) == 0
