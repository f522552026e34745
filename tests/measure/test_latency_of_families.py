"""Latency tables of models with several kinds of blocks or shared keys: predictions, choices, and what is timed."""

from itertools import product

import pytest
import torch
from fake_clock import by_weights, timer
from tiny_models import random_masks, tiny

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.measure import latency_sweep
from secateur.measure.generation import part_of
from secateur.measure.latency_sweep import measure_again, measure_latency
from secateur.measure.measurement import Measurement
from secateur.structure.plan import Plan
from secateur.structure.unit_names import stack_of
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

CASES = [
    ("marian", ("ffn", "qk", "vo", "head")),
    ("marian", ("layer", "sublayer", "head", "ffn")),
    ("marian", ("decoder.layer", "encoder.ffn", "decoder.ffn", "head")),
    ("llama", ("kv_head", "head", "ffn")),
    ("llama", ("layer", "kv_head", "qk", "head")),
    ("llama", ("hidden", "head", "sublayer", "ffn")),
]
SHARES = (0.4, 0.6, 0.9)


def table_of(model, units):
    return measure_latency(model, *units, timer=timer(clock=by_weights))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} {'-'.join(case[1])}")
def space(request):
    kind, units = request.param
    model = tiny(kind, dtype=torch.float32)
    return Space(model, *units, budget=table_of(model, units))


def cut_to(space, kept):
    return cut(space.model, Plan.of(space, kept.float(), source=""))


@pytest.mark.parametrize("share", SHARES)
def test_a_choice_takes_the_time_that_was_predicted(space, share):
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    kept = space.choose(scores, share)
    predicted = space.budget.predict(space, kept.float())
    assert predicted == pytest.approx(by_weights(cut_to(space, kept)), rel=1e-6)
    assert 0.75 * share < predicted / space.budget.dense_ms <= share * (1 + 1e-9)
    assert torch.equal(space.closure(kept), kept)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_of_any_sizes_takes_no_longer_than_predicted(space, seed):
    kept = space.closure(random_masks(space, 0.7, seed=seed) > 0)
    assert by_weights(cut_to(space, kept)) <= space.budget.predict(space, kept.float()) * (1 + 1e-9)


def test_the_dense_model_is_predicted(space):
    dense = space.budget.predict(space, space.ones())
    assert dense == pytest.approx(space.budget.dense_ms) == pytest.approx(by_weights(space.model))


def test_the_floor_is_reached_and_layers_as_units_keep_one_of_each_stack(space):
    floor = space.budget.floor(space)
    kept = space.choose(space.ones(), floor * (1 + 1e-9))
    assert space.share(kept) == pytest.approx(floor)
    with pytest.raises(UserError, match="is out of reach"):
        space.budget.check(space, 0.99 * floor)
    left = space.read(kept.float()).layers_left().tolist()
    stacks = {stack_of(layer) for layer, is_left in zip(space.table.layers, left, strict=True) if is_left}
    if "layer" in space.kinds:
        assert stacks == set(map(stack_of, space.table.layers))


def test_a_saved_table_predicts_the_same(space, tmp_path):
    space.budget.save(tmp_path / "latency.json")
    loaded, masks = LatencyTable.load(tmp_path / "latency.json"), random_masks(space, 0.6)
    assert loaded.to_dict() == space.budget.to_dict()
    assert loaded.predict(space, masks) == space.budget.predict(space, masks)


@pytest.mark.parametrize("names", [("kv_head", "head", "ffn"), ("head", "vo"), ("kv_head", "sublayer", "qk")])
def test_shared_keys_and_their_heads_have_the_highest_total_value(names):
    """Compared with all choices, for several limits."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 2, "head_dim": 4}
    model = tiny("llama", dtype=torch.float32, **sizes)
    space = Space(model, *names, budget=table_of(model, names))
    every = torch.tensor(list(product([False, True], repeat=len(space))))
    choices = torch.unique(torch.stack([space.closure(kept) for kept in every]), dim=0)
    prices = torch.tensor([space.budget.predict(space, kept) for kept in choices], dtype=torch.double)
    scores = torch.randn(len(space), generator=torch.Generator().manual_seed(0)).double()
    least = 1e-6 * float(scores.max() - scores.min())
    values = (scores - scores.min() + least) * space.unit_cost().double()
    for part in (0.1, 0.4, 0.7, 1.0):
        limit = float(prices.quantile(part))
        kept = space.choose(scores, limit / space.budget.dense_ms)
        assert space.budget.predict(space, kept) <= limit * (1 + 1e-9)
        best = (choices[prices <= limit].double() @ values).max()
        assert float(kept.double() @ values) == pytest.approx(float(best), rel=1e-4, abs=1e-6)


def test_a_table_of_one_stack_is_refused_for_units_of_the_other():
    model = tiny("marian", dtype=torch.float32)
    table, space = table_of(model, ("encoder.ffn",)), Space(model, "ffn")
    with pytest.raises(UserError, match="without varying ffn: measure one with the units ffn"):
        table.predict(space, space.ones())


# What is timed


@pytest.mark.parametrize(
    ("kind", "head", "timed", "part"),
    [
        ("marian", None, None, "generation"),
        ("marian", None, "forward", "whole"),
        ("llama", "ForCausalLM", None, "generation"),
        ("llama", "ForSequenceClassification", None, "whole"),
        ("bert", None, None, "whole"),
    ],
)
def test_what_is_timed_is_what_a_model_is_used_for(kind, head, timed, part):
    model = tiny(kind, head)
    assert part_of(model, timed) == part
    if part == "whole":
        with pytest.raises(UserError, match=r"4 beams are of a generation, and of .* a forward is timed"):
            part_of(model, timed, beams=4)


@pytest.mark.parametrize(
    ("kind", "head", "units"), [("marian", None, ("layer", "head")), ("llama", "ForCausalLM", ("kv_head", "ffn"))]
)
def test_generations_are_timed_and_timed_again(kind, head, units):
    model = tiny(kind, head, dtype=torch.float32)
    model.generation_config.update(num_beams=3, num_return_sequences=3)  # not read, as the beams are those of the table
    table = measure_latency(model, *units, batch=1, tokens=3, part="generation", beams=2, repeats=2)
    assert table.protocol["part"] == "generation, 2 beams" and table.protocol["repeats"] == 1
    space = Space(model, *units, budget=table)
    found = measure_again(table, cut_to(space, space.closure(random_masks(space, 0.7) > 0)), model, repeats=20)
    assert found.protocol["part"] == "generation, 2 beams" and found.protocol["repeats"] == 2


def test_beams_and_the_part_are_passed_on(monkeypatch):
    calls = []

    def recorded(model, against, **call):
        calls.append(call)
        return Measurement(1.0, (1.0, 1.0), 0, {}, Measurement(1.0, (1.0, 1.0), 0, {}))

    monkeypatch.setattr(latency_sweep, "measure", recorded)
    model = tiny("bert", dtype=torch.float32)
    assert measure_latency(model, "ffn", repeats=4).call["part"] == "whole"
    assert {(call["part"], call["repeats"], call["warmup"]) for call in calls} == {("whole", 4, 3)}


def test_a_generation_beyond_the_positions_is_refused():
    with pytest.raises(UserError, match=r"at most 40 tokens, the positions that LlamaForCausalLM has, got 60 with"):
        measure_latency(tiny("llama", "ForCausalLM"), "ffn", batch=1, tokens=30, part="generation")
