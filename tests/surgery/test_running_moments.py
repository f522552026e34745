"""The refit of a Linear at a removal, beside a dense least-squares solution in float64."""

import threading
from functools import partial

import pytest
import torch

from secateur.surgery.compensation import RIDGE
from secateur.surgery.running_moments import DECAY, RunningMoments

INTO, OUT, BATCHES, TOKENS = 9, 4, 3, 80
REMOVED = torch.arange(INTO) % 4 == 1  # 1 and 5; 8 left before


@pytest.fixture
def batches():
    """Inputs that go together, far from 0; the last one was removed earlier."""
    mix = torch.randn(INTO, INTO).double()
    inputs = [torch.randn(TOKENS, INTO).double() @ mix + 3 for _ in range(BATCHES)]
    return [one * (torch.arange(INTO) < INTO - 1) for one in inputs]


def moments_of(batches):
    moments = RunningMoments(INTO, batches[0])
    for batch in batches:
        moments.begin()
        for part in batch.chunk(2):  # two micro-batches
            moments.collect(part, torch.arange(INTO))
        moments.settle(lambda tensor: tensor)
    return moments


def kept():
    return ~REMOVED & (torch.arange(INTO) < INTO - 1)


@pytest.mark.parametrize("bias", [True, False])
def test_the_change_is_the_least_squares_solution(batches, bias):
    """Of the rows of all tokens, the older the lighter, and of a row for each weight that draws it to what it was."""
    weight, stay = torch.randn(OUT, INTO).double(), kept()
    weights = torch.cat([torch.full((TOKENS,), DECAY ** (BATCHES - 1 - age)) for age in range(BATCHES)]).double()
    tokens = torch.cat(batches)
    lost = tokens[:, REMOVED] @ weight[:, REMOVED].T
    means = [(weights @ values / weights.sum()) * bias for values in (tokens[:, stay], lost)]
    rows, targets = tokens[:, stay] - means[0], lost - means[1]
    mean_square = (weights @ rows.square() / weights.sum()).mean()
    ridge = (RIDGE * weights.sum() * mean_square).sqrt() * torch.eye(int(stay.sum())).double()
    scale = weights.sqrt().unsqueeze(1)
    stacked = torch.cat([rows * scale, ridge]), torch.cat([targets * scale, torch.zeros(len(ridge), OUT).double()])
    wanted = torch.linalg.lstsq(*stacked).solution.T

    change, offset = moments_of(batches).made_up(weight, REMOVED, stay, centred=bias)
    assert torch.allclose(change[:, stay], wanted, rtol=1e-8)
    assert bool((change[:, ~stay] == 0).all())
    if bias:
        assert torch.allclose(offset, means[1] - wanted @ means[0], rtol=1e-8)


def test_a_linear_that_was_cut_has_the_same_moments(batches):
    """Its inputs are stored in another order, with padding between them."""
    moments, cut = moments_of(batches), RunningMoments(INTO, batches[0])
    columns = torch.tensor([5, 3, -1, 0, 1, 7, -1, 6, 2, 4])
    for batch in batches:
        cut.begin()
        cut.collect(torch.where(columns < 0, 99.0, batch[:, columns.clamp(min=0)]), columns)
        cut.settle(lambda tensor: tensor)
    assert torch.allclose(cut.products, moments.products, rtol=1e-12)
    assert torch.allclose(cut.mean, moments.mean, rtol=1e-12) and cut.count == moments.count


@pytest.mark.parametrize("far", [0, 30, 1000])
def test_covariances_of_inputs_far_from_0_are_those_of_float64(batches, far):
    """In float32, in which the difference of the sums would be noise."""
    inputs = [(batch + far).float() for batch in batches]
    moments, exact = moments_of(inputs), moments_of([one.double() for one in inputs])
    assert moments.products.dtype == torch.float32
    error = (moments.products / moments.count - exact.products / exact.count).abs().max()
    assert error < 1e-5 * (exact.products / exact.count).abs().max()


def test_processes_have_the_moments_of_all_tokens(batches):
    """Each with other tokens, of which one has none; what is averaged are sums, in lockstep."""
    whole, ranks = RunningMoments(INTO, batches[0]), [RunningMoments(INTO, batches[0]) for _ in range(3)]
    for own in (whole, *ranks):
        own.begin()
    for own, tokens in zip(ranks, (batches[0], batches[1] + 5, batches[2][:0]), strict=True):
        own.collect(tokens, torch.arange(INTO))
        whole.collect(tokens, torch.arange(INTO))
    whole.settle(lambda tensor: tensor)
    in_lockstep(ranks)
    for own in ranks:
        assert torch.allclose(3 * own.count, whole.count) and torch.allclose(own.mean, whole.mean)
        assert torch.allclose(3 * own.products, whole.products)


def in_lockstep(ranks):
    """Settle the moments of several processes, each in a thread."""
    barrier, posted = threading.Barrier(len(ranks)), [None] * len(ranks)

    def average(rank, tensor):
        posted[rank] = tensor
        barrier.wait()
        mean = torch.stack(posted).mean(0)
        barrier.wait()
        return mean

    threads = [threading.Thread(target=own.settle, args=(partial(average, rank),)) for rank, own in enumerate(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_contributed_nothing_is_not_made_up_for(batches):
    closed = [batch * ~REMOVED for batch in batches]
    change, offset = moments_of(closed).made_up(torch.randn(OUT, INTO).double(), REMOVED, kept(), centred=True)
    assert not bool(change.any()) and not bool(offset.any())


def test_without_inputs_the_bias_takes_over_the_mean(batches):
    weight, all_ = torch.randn(OUT, INTO).double(), torch.ones(INTO).bool()
    moments = moments_of(batches[:1])
    _, offset = moments.made_up(weight, all_, ~all_, centred=True)
    assert torch.allclose(offset, (batches[0] @ weight.T).mean(0))


def test_moments_are_in_single_precision_at_least():
    assert RunningMoments(3, torch.zeros(1, dtype=torch.bfloat16)).products.dtype == torch.float32
