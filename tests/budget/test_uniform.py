"""Layers that all keep the same sizes."""

from collections import Counter

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.budget.uniform import UniformParameters
from secateur.system.errors import UserError


def space_of(*units, kind="llama", **more):
    sizes = {"num_hidden_layers": 3, **({"num_key_value_heads": 4} if kind == "llama" else {})}
    model = tiny(kind, num_attention_heads=8, hidden_size=64, **sizes)
    return Space(model, *units, budget=UniformParameters(), **more)


def scores_of(space, seed=0):
    return torch.rand(len(space), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", [0.4, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    "units", [("kv_head", "ffn"), ("head", "ffn"), ("kv_head", "head", "ffn", "hidden")], ids="-".join
)
def test_every_layer_keeps_the_same_sizes_within_the_density(units, density):
    space = space_of(*units)
    kept = space.choose(scores_of(space), density=density)
    reading = space.read(kept)
    assert density - 0.05 < reading.density() <= density
    widths = Counter(int(reading.alive[f"{layer}.ffn"].sum()) for layer in space.table.layers)
    heads = Counter(tuple(reading.heads_of_each(number)) for number in range(3))
    assert len(widths) == len(heads) == 1 and len({*next(iter(heads))}) == 1


def test_each_layer_keeps_its_own_best_units():
    space = space_of("kv_head", "ffn")
    scores = scores_of(space)
    kept = space.choose(scores, density=0.5)
    for group, own in space.by_group(kept):
        values = scores[space.slices[group.name]]
        assert values[own].min() > values[~own].max()


def test_heads_and_neurons_keep_similar_fractions():
    space = space_of("kv_head", "ffn")
    kept = space.choose(scores_of(space), density=0.5)
    fractions = {group.kind: float(own.float().mean()) for group, own in space.by_group(kept)}
    assert fractions["kv_head"] == 0.5 and fractions["ffn"] == pytest.approx(0.5, abs=0.03)


def test_sizes_are_rounded_down_to_multiples():
    space = space_of("kv_head", "ffn", round_to=16)
    reading = space.read(space.choose(scores_of(space), density=0.6))
    assert int(reading.alive["0.ffn"].sum()) % 16 == 0


def test_what_was_removed_does_not_return():
    space = space_of("kv_head", "ffn")
    before = space.choose(scores_of(space), density=0.8)
    after = space.choose(scores_of(space, seed=1), density=0.5, alive=before)
    assert not bool((after & ~before).any())
    assert len({int(space.read(after).alive[f"{layer}.ffn"].sum()) for layer in range(3)}) == 1


def test_heads_of_their_own_are_kept_in_equal_numbers():
    space = space_of("head", "ffn", kind="bert")
    reading = space.read(space.choose(scores_of(space), density=0.4))
    assert len({int(reading.heads(layer).sum()) for layer in space.table.layers}) == 1


@pytest.mark.parametrize("units", [("ffn", "qk"), ("layer", "ffn"), ("ffn/8x8",)], ids="-".join)
def test_units_whose_numbers_differ_by_their_nature_are_refused(units):
    with pytest.raises(
        UserError, match=f"{units[0] if 'qk' not in units else 'qk'} cannot be pruned to the same sizes"
    ):
        space = space_of(*units)
        space.choose(space.ones(), density=0.5)


def test_a_density_out_of_reach_is_refused_with_the_floor():
    space = space_of("kv_head", "ffn")
    with pytest.raises(UserError, match="out of reach"):
        space.choose(space.ones(), density=0.01)
    assert 0.0 < space.floor() < 0.3
