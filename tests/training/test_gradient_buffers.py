"""Gradients that stay where they are from step to step."""

import torch
from torch import nn

from secateur.training.gradient_buffers import GradientBuffers


def with_gradients(*shapes, dtype=torch.float32):
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return parameters


def test_gradients_that_were_none_begin_at_0_and_stay_in_place():
    first, second = with_gradients((2, 3), (5,))
    half = with_gradients((4,), dtype=torch.bfloat16)[0]
    without = nn.Parameter(torch.zeros(2))
    buffers, parameters = GradientBuffers(), [first, second, half, without]
    buffers.include(parameters)
    places = []
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = None
        buffers.attach()
        assert without.grad is None
        assert all(not parameter.grad.any() for parameter in (first, second, half))
        places.append([parameter.grad.data_ptr() for parameter in (first, second, half)])
        first.grad += 1.0
    assert places[0] == places[1]
    assert all(place % 16 == 0 for place in places[0])


def test_gradients_of_earlier_micro_batches_are_kept():
    parameters = with_gradients((3,), (2,))
    buffers = GradientBuffers()
    buffers.include(parameters)
    parameters[1].grad = None
    buffers.attach()
    assert parameters[0].grad.tolist() == [1.0, 1.0, 1.0]
    assert parameters[1].grad.tolist() == [0.0, 0.0]
    parameters[0].grad += 1.0
    buffers.attach()
    assert parameters[0].grad.tolist() == [2.0, 2.0, 2.0]


def test_parameters_that_get_a_gradient_later_are_added():
    first, second = with_gradients((3,), (2,))
    buffers = GradientBuffers()
    buffers.include([first])
    buffers.attach()
    place = first.grad
    buffers.include([first, second])
    buffers.attach()
    assert first.grad is place
    assert second.grad.tolist() == [1.0, 1.0]


def test_a_parameter_that_was_frozen_has_no_gradient():
    first, second = with_gradients((3,), (2,))
    buffers = GradientBuffers()
    buffers.include([first, second])
    first.requires_grad_(False)
    first.grad = second.grad = None
    buffers.attach()
    assert first.grad is None and second.grad.tolist() == [0.0, 0.0]
