"""Differentiable subset pruning's golden tests by the specification's numbers: T1 to T7, T9, T11, T15."""

import math

import pytest
import torch
from quiet import arguments
from safetensors.torch import load_file, save_file
from tiny_models import tiny
from torch import nn

from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.methods.schedules import linear
from secateur.methods.subset import Subset, gumbel, relaxed_top_k
from secateur.system.errors import UserError
from secateur.training.objectives import Hidden, Labels, Logits
from secateur.training.trainer import PruningTrainer

FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(scope="module")
def heads():
    """24 heads in 6 layers, counted."""
    return Space(tiny("bert", num_hidden_layers=6), "head", budget=Units())


def perturbed(size, seed=0, spread=0.5, dtype=torch.float64):
    """Initial scores and their noise: `(size,)` each."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(size, generator=generator, dtype=dtype) * 2 - 1) * spread
    return scores, gumbel(torch.rand(size, generator=generator, dtype=dtype).clamp(1e-30, 1 - 1e-7))


def given(space, count, scores, **options):
    """A method with these scores that keeps `count` units."""
    method = Subset(space, count / len(space), seed=0, **options)
    with torch.no_grad():
        method.learned_scores.copy_(torch.tensor(scores))
    return method


@pytest.mark.parametrize(("layers", "bound"), [(6, (6 / 10) ** 0.5), (12, (6 / 16) ** 0.5)])
def test_scores_start_within_xaviers_bound_of_layers_x_heads(layers, bound):
    space = Space(tiny("bert", num_hidden_layers=layers), "head", budget=Units())
    largest = max(float(Subset(space, 0.5, seed=seed).learned_scores.detach().abs().max()) for seed in range(10))
    assert 0.95 * bound < largest <= bound


# T1


@FLOATS
@pytest.mark.parametrize("size", [12, 72, 144])
def test_t1_gates_sum_to_k_and_are_finite(size, dtype):
    for count in (1, 4, size - 1):
        for temperature in (1000.0, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-8):
            for spread in (0.5, 50.0):
                scores, noise = perturbed(size, count, spread, dtype)
                scores.requires_grad_()
                gates = relaxed_top_k(scores + noise, count, temperature)
                assert abs(float(gates.detach().double().sum()) - count) < (1e-9 if dtype == torch.float64 else 1e-3)
                assert bool((gates >= 0).all())
                if gates.requires_grad:
                    (gates * noise).sum().backward()
                    assert bool(scores.grad.isfinite().all())


# T2, T3


@FLOATS
def test_t2_gates_are_hard_at_a_low_temperature_and_equal_at_a_high_one(dtype):
    clear = 0  # two that share a place lose it to the next while they are not many temperatures apart
    for seed in range(8):
        scores, noise = perturbed(12, seed, dtype=dtype)
        ranked = (scores + noise).sort(descending=True).values
        hard = torch.zeros(12, dtype=dtype).index_fill(0, (scores + noise).topk(4).indices, 1.0)
        assert torch.equal(relaxed_top_k(scores + noise, 4, 1e-8), hard)
        assert float((relaxed_top_k(scores + noise, 4, 1e6) - 4 / 12).abs().max()) < 1e-4
        if float((ranked[:4] - ranked[1:5]).min()) > 0.04:
            clear += 1
            assert float((relaxed_top_k(scores + noise, 4, 0.01) - hard).abs().max()) < 0.05
    assert clear >= 3


def test_t2_all_rounds_give_hard_gates_at_a_low_temperature():
    """Two values closer than the gap of the short cut go through all rounds, and the gates are hard too."""
    values = torch.tensor([0.0, 1.0, 1.03, 2.0], dtype=torch.float64, requires_grad=True)
    gates = relaxed_top_k(values, 2, 1e-3)
    assert gates.requires_grad and not relaxed_top_k(values, 2, 0.9e-3).requires_grad
    torch.testing.assert_close(gates.detach(), torch.tensor([0.0, 0.0, 1.0, 1.0]).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1])
def test_t3_a_subset_of_one_is_gumbel_softmax(temperature):
    scores, noise = perturbed(12)
    upstream = torch.linspace(-1, 1, 12, dtype=torch.float64)
    gradients = []
    for rule in (lambda x: relaxed_top_k(x, 1, temperature), lambda x: torch.softmax(x / temperature, 0)):
        own = scores.clone().requires_grad_()
        gates = rule(own + noise)
        (gates * upstream).sum().backward()
        gradients.append((gates.detach(), own.grad))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


# T4


def test_t4_subsets_have_the_distribution_of_sampling_without_replacement():
    """Sampling without replacement with weights exp(w)."""
    scores, draws = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64), 20_000
    noise = gumbel(torch.rand(draws, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    hard = torch.stack([relaxed_top_k(scores + one, 2, 1e-8) for one in noise[:200]])
    assert torch.equal(hard.argmin(dim=1), (scores + noise[:200]).argmin(dim=1))
    left_out = (scores + noise).argmin(dim=1)  # as those 200 say: two of three are all but the lowest
    for without, share in ((2, 0.5398), (0, 0.3072), (1, 0.1530)):
        assert abs(float((left_out == without).double().mean()) - share) < 0.012


# T5


@pytest.mark.parametrize("temperature", [1000.0, 1.0, 0.1])
def test_t5_gradients_are_those_of_finite_differences(temperature):
    scores, noise = perturbed(8)
    jacobian = torch.autograd.functional.jacobian(lambda x: relaxed_top_k(x + noise, 3, temperature), scores)
    step = 1e-6 * max(1.0, temperature)
    for unit in range(8):
        moved = torch.zeros(8, dtype=torch.float64).index_fill(0, torch.tensor([unit]), step)
        ahead, behind = (relaxed_top_k(scores + way * moved + noise, 3, temperature) for way in (1, -1))
        torch.testing.assert_close((ahead - behind) / (2 * step), jacobian[:, unit], atol=1e-5, rtol=1e-5)
    assert float(jacobian.abs().max()) > 1e-4 / max(1.0, temperature)
    assert float(jacobian.sum(dim=1).abs().max()) < 1e-9


# T6


def test_t6_straight_through():
    space = Space(tiny("bert", num_hidden_layers=1), "head", budget=Units())
    method = given(space, 2, [0.3, 0.1, 0.9, 0.5], straight_through=True)
    masks = method.train().masks()
    assert masks.tolist() == [0.0, 0.0, 1.0, 1.0]
    (masks * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert method.learned_scores.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_t6_all_units_and_ties_keep_exactly_k():
    space = Space(tiny("bert", num_hidden_layers=1), "head", budget=Units())
    for count in (1, 2, 3, 4):
        method = given(space, count, [0.5] * 4, straight_through=True)
        assert float(method.train().masks().detach().sum()) == count
        assert int(method.plan(keep=count).kept.sum()) == count


# T7


def test_t7_temperatures():
    space = Space(tiny("bert"), "head", budget=Units())
    run = Subset(space, linear(0.5, 0.5, begin=0.0, end=25_000 / 36_816))
    at = {0: 1000.0, 6250: 1.77828, 12_500: 3.16228e-3, 25_000: 1e-8, 30_000: 1e-8}
    for step, wanted in at.items():
        assert run.temperature(step / 36_816) == pytest.approx(wanted, rel=1e-5)
    short = Subset(space, linear(0.5, 0.5), temperature=(0.1, 1e-8))
    assert short.temperature(0.5) == pytest.approx(3.1623e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 3.0}, "temperature 3.0 is no pair"),
        ({"temperature": (1.0, 0.0)}, "between two numbers above 0"),
        ({"temperature": (1e-3, 1e-8)}, "where gates are hard already: begin above 0.001"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a number above 0"),
        ({"clip": -1.0}, "clip is -1.0: expected a number from 0 on"),
    ],
)
def test_options_out_of_range_are_refused(heads, options, message):
    with pytest.raises(UserError, match=message):
        Subset(heads, 0.5, **options)


# T9, T11


def taught(space, count, utility, seed, *, steps=300, **options):
    """A method after a training on `-sum(utility x gates)`, and the temperatures at which its scores had a gradient."""
    method = Subset(space, linear(count / len(space), count / len(space), end=0.8), seed=seed, clip=0.0, **options)
    optimizer, heard = torch.optim.Adam(method.param_groups()), []
    for step in range(steps):
        loss = -(utility * method.train().masks()).sum()
        if loss.requires_grad:
            loss.backward()
            if bool(method.learned_scores.grad.any()):
                heard.append(method.temperature(method.progress))
            optimizer.step()
            optimizer.zero_grad()
        method.advance((step + 1) / steps)
    return method.eval(), heard


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("count", [1, 12, 24])
def test_t9_exactly_k(heads, count, straight_through, tmp_path):
    utility = torch.rand(24, generator=torch.Generator().manual_seed(5))
    method, _ = taught(heads, count, utility, 0, steps=30, straight_through=straight_through)
    plan = method.plan(keep=count)
    assert int(plan.kept.sum()) == plan.keep == count
    assert torch.equal(method.masks(), plan.masks) and torch.equal(method.masks(), method.masks())
    save_file(method.state_dict(), tmp_path / "m.safetensors")
    again = Subset(heads, count / 24, seed=9)
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(again.plan(keep=count).masks, plan.masks)


@pytest.mark.parametrize("seed", range(4))
def test_t11_a_planted_subset_is_found(heads, seed):
    utility = torch.randperm(24, generator=torch.Generator().manual_seed(seed)).float() / 24
    method, heard = taught(heads, 6, utility, seed)
    assert set(method.plan(keep=6).kept.nonzero().flatten().tolist()) == set(utility.topk(6).indices.tolist())
    assert heard[0] == 1000.0 and 1e-3 < min(heard) < 1.0


# Noise


def test_the_noise_depends_on_the_step_and_is_absent_in_evaluation(heads):
    first, second = (given(heads, 6, [0.0] * 24) for _ in range(2))
    a, b = first.train().masks(), first.masks()
    assert not torch.equal(a, b), "new noise in each step"
    torch.rand(3)
    second.train().masks()
    second.set_extra_state(second.get_extra_state())
    assert torch.equal(second.masks(), b)
    assert torch.equal(first.eval().masks(), second.eval().masks())


def test_at_a_low_temperature_the_kept_units_are_trained(heads):
    """In the published code subsets go on changing where scores are closer than the noise."""
    ours, published = (given(heads, 6, [0.0] * 24, faithful=faithful) for faithful in (False, True))
    for method in (ours, published):
        method.train().advance(1.0)
    assert torch.equal(ours.masks(), ours.plan(keep=6).masks)
    assert not torch.equal(published.masks(), published.masks())


def test_faithful_scores_are_float64_and_evaluation_is_sampled(heads):
    method = given(heads, 6, [0.0] * 24, faithful=True)
    assert method.learned_scores.dtype == torch.float64
    first = method.train().masks().detach()
    noisy = method.eval().masks().detach()
    assert not torch.equal(noisy, first) and float(noisy.sum()) == pytest.approx(6)
    assert torch.equal(noisy, method.train().masks()), "an evaluation on one rank alone changes no later noise"
    fresh = Subset(heads, 0.5, faithful=True, seed=0)
    assert 0.3 < float(fresh.learned_scores.detach().abs().max()) <= math.sqrt(6 / (6 + 4))


# T15


@pytest.mark.parametrize("options", [{}, {"straight_through": True}], ids=["gumbel", "straight-through"])
def test_t15_pipelined_only_the_scores_change(rows, bert, tmp_path, options):
    """Through the trainer, with distillation, a projection and weight decay: no weight of the model changes."""
    model, teacher = bert(), bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = Space(model.requires_grad_(False), "head", budget=Units())
    method = Subset(space, linear(0.5, 0.5), temperature=(1.0, 0.1), seed=0, **options)
    start = method.learned_scores.detach().clone()
    trainer = PruningTrainer(
        model,
        method=method,
        teacher=teacher,
        objective=[Labels(), Logits(temperature=4.0), Hidden(layers="every 1")],
        args=arguments(tmp_path, 6, weight_decay=0.1, learning_rate=0.1),
        train_dataset=rows,
    )
    trainer.train()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])] == []
    assert not bool(torch.isclose(method.learned_scores, start).any())
    assert not any(isinstance(parameter.grad, torch.Tensor) for parameter in model.parameters())


def test_the_gradient_of_the_scores_is_clipped_on_its_own(rows, bert, tmp_path):
    """To their own norm, independently of the gradient of the model."""
    model = bert()
    method = Subset(Space(model, "head", budget=Units()), linear(0.5, 0.5), straight_through=True, clip=1e-3, seed=0)
    norms = []

    class Watched(PruningTrainer):
        def before_step(self):
            super().before_step()
            own = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norms.append((float(method.learned_scores.grad.norm()), float(nn.utils.get_total_norm(own))))

    args = arguments(tmp_path, 3, max_grad_norm=0.0)
    Watched(model, method=method, objective=[Labels()], args=args, train_dataset=rows).train()
    assert len(norms) == 3
    assert all(0 < mine <= 1e-3 * (1 + 1e-5) and model > 1e-2 for mine, model in norms)
