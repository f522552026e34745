"""Fisher information: squared gradients, summed over steps, per parameter."""

import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.fisher import Fisher
from secateur.methods.schedules import cubic


def test_scores_are_sums_of_squares_per_parameter():
    space = Space(tiny("bert"), "head", "ffn")
    method = Fisher(space, cubic(1.0, 0.5, begin=0.2, end=0.8))
    steps = [torch.randn(len(space)) for _ in range(3)]
    for gradient in steps:
        method.observe(gradient)
    wanted = sum(gradient.square() for gradient in steps) / space.unit_cost()
    assert torch.allclose(method.scores(), wanted)


def test_it_observes_until_its_schedule_has_ended():
    method = Fisher(Space(tiny("bert"), "head", "ffn"), cubic(1.0, 0.5, begin=0.2, end=0.8))
    assert method.listens_to == {"labels": 1.0, "logits": 1.0}
    method.advance(0.8)
    assert method.listens_to == {} and method.space.density(method.alive) <= 0.5
