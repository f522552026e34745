"""Magnitude pruning: the root mean square of the weights of a unit, worked out by hand."""

import pytest
import torch
from tiny_models import COMMON_UNITS, tiny

from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.methods.schedules import cubic


@pytest.fixture(scope="module")
def sparse_model():
    """One layer, hidden 4, 2 heads of 2, 2 neurons; all weights of units are 0 except for four rows and a bias."""
    model = tiny("bert", hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=2)
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer.intermediate.dense.weight[1] = 3.0  # squares: 4 x 9
        layer.intermediate.dense.bias[1] = 1.0
        layer.output.dense.weight[:, 1] = 2.0  # 4 x 4
        layer.attention.self.query.weight[2] = 1.0  # 4 x 1
        layer.attention.self.value.bias[3] = 3.0
        layer.output.LayerNorm.weight[:] = 100.0  # norms and output biases belong to no unit
        layer.output.dense.bias[:] = 100.0
    return model


MEAN_SQUARES = {
    "ffn": [0, 53 / 9],  # a neuron has 4 weights in, 1 bias, 4 out
    "qk": [0, 0, 4 / 10, 0],  # 4 weights and 1 bias, of query and of key
    "vo": [0, 0, 0, 9 / 9],  # 4 weights, 1 bias, 4 of the output
    "head": [0, 13 / 38],  # 2 QK and 2 VO dims
    "sublayer": [13 / 76, 53 / 18],  # query, key, value: 20 each, 16 of the output; the FFN
    "layer": [(13 + 53) / (76 + 18)],
    "hidden": [(1 + 9 + 4) / 20] * 4,  # query, key, value: 4 each; attention's output 4; 2 into and 2 out of the FFN
}


@pytest.mark.parametrize("kind", COMMON_UNITS)
def test_the_score_is_the_root_mean_square_of_the_weights_of_a_unit(sparse_model, kind):
    expected = torch.tensor(MEAN_SQUARES[kind]).float().sqrt()
    torch.testing.assert_close(Magnitude(Space(sparse_model, kind)).scores(), expected)


def test_the_unit_with_larger_weights_is_kept(sparse_model):
    plan = Magnitude(Space(sparse_model, "ffn")).plan(0.95)
    assert plan.masks.tolist() == [0.0, 1.0]
    assert plan.achieved["prunable"] == pytest.approx((76 + 9) / (76 + 18))


def test_a_method_that_goes_back_to_a_checkpoint_prunes_again():
    method = Magnitude(Space(tiny("bert"), "ffn"), cubic(1.0, 0.8, begin=0.0, end=0.5))
    saved = {name: value.clone() for name, value in method.state_dict().items()}
    method.advance(0.6)
    pruned = method.alive.clone()
    method.load_state_dict(saved)
    assert bool(method.alive.all())
    method.advance(0.6)
    assert torch.equal(method.alive, pruned) and not bool(pruned.all())
