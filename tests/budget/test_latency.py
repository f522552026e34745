"""The latency table: saved and loaded, and the units kept for a latency have the highest value."""

import json
import re
from dataclasses import replace
from itertools import product
from weakref import WeakKeyDictionary

import pytest
import torch
from fake_clock import SIZES, UNIT_SETS, by_weights, timer
from fake_clock import milliseconds as fake_ms
from tiny_models import COMMON_UNITS, MONOTONE, learn, random_masks, tiny

from secateur.budget.amounts import milliseconds
from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.measure.latency_sweep import measure_latency
from secateur.methods import METHODS
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.schedules import cubic
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.system.errors import UserError
from secateur.system.quantities import at_least


@pytest.fixture(scope="module")
def model():
    return tiny("bert", dtype=torch.float32, **SIZES)


@pytest.fixture(scope="module")
def table(model):
    """Measured for every kind."""
    return measure_latency(model, *COMMON_UNITS, timer=timer())


# The table


def test_a_loaded_table_equals_the_saved_one(model, table, tmp_path):
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json", batch=8, tokens=128, threads=None)
    assert loaded.to_dict() == table.to_dict() == json.loads((tmp_path / "table.json").read_text())
    space = Space(model)
    masks = random_masks(space)
    assert loaded.predict(space, masks) == table.predict(space, masks)
    assert loaded.protocol["runtime"] == "a fake"


def test_a_table_of_version_1_is_read(table, tmp_path):
    data = table.to_dict()
    own = data.pop("blocks")["layers"]
    grid = {name: sizes for name, sizes in own.pop("grid").items() if name != "sharing"} | {
        "hidden": data.pop("hidden")
    }
    assert own.pop("count") == data["shape"]["layers"]
    own["attention"] = [sizes[0] for sizes in own["attention"]]
    call = {name: value for name, value in data["call"].items() if name not in ("part", "beams")}
    (tmp_path / "table.json").write_text(json.dumps({**data, **own, "version": 1, "grid": grid, "call": call}))
    loaded = LatencyTable.load(tmp_path / "table.json", batch=8, part="whole", beams=1)
    assert loaded.to_dict() == {**table.to_dict(), "call": call}


def test_a_table_of_another_protocol_is_refused(table, tmp_path):
    table.save(tmp_path / "table.json")
    with pytest.raises(UserError, match=r"was measured with tokens 128, not 32: measure another"):
        LatencyTable.load(tmp_path / "table.json", batch=8, tokens=32)
    assert table.call.get("threads") is None and LatencyTable.load(tmp_path / "table.json", threads=1)
    with pytest.raises(UserError, match=r"was measured with threads 1, not 2: measure another"):
        LatencyTable.load(tmp_path / "table.json", threads=2)
    with pytest.raises(UserError, match=r"was measured with part whole, not generation: measure another"):
        LatencyTable.load(tmp_path / "table.json", part="generation")


@pytest.mark.parametrize("spoil", ["cut short", "other version", "no rest", "other grid", "not a number"])
def test_a_damaged_table_is_refused(table, tmp_path, spoil):
    data = table.to_dict()
    if spoil == "other version":
        data["version"] = 99
    elif spoil == "no rest":
        del data["rest"]
    elif spoil == "other grid":
        data["blocks"]["layers"]["grid"]["ffn"] = [1, 20]
    elif spoil == "not a number":
        data["blocks"]["layers"]["mlp"][0][0] = float("nan")
    text = json.dumps(data)
    (tmp_path / "table.json").write_text(text[:-9] if spoil == "cut short" else text)
    with pytest.raises(UserError, match=r"table\.json") as refusal:
        LatencyTable.load(tmp_path / "table.json")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("version", [99, 0, "1", True, None])
def test_a_table_of_another_version_is_refused_whatever_else_it_holds(tmp_path, version):
    (tmp_path / "table.json").write_text(json.dumps({"version": version, "a key of that version": 1}))
    with pytest.raises(UserError, match=r"table\.json has version .*, and this secateur reads 1 to 2"):
        LatencyTable.load(tmp_path / "table.json")


def test_a_table_of_another_model_or_other_units_is_refused(model, table):
    wider = Space(tiny("bert", dtype=torch.float32, **SIZES | {"intermediate_size": 21}))
    with pytest.raises(UserError, match="for another model: this one has ffn 21, not 20"):
        table.predict(wider, wider.ones())
    neurons = measure_latency(model, "ffn", timer=timer())
    space = Space(model, "ffn", "head")
    with pytest.raises(UserError, match="without varying heads: measure one with the units ffn, head"):
        neurons.predict(space, space.ones())


def test_a_table_of_a_model_with_more_pieces_or_whole_embeddings_is_refused():
    """Its output layer, which takes long where a text is generated, is a larger one."""
    whole = tiny("t5", "ForConditionalGeneration", dtype=torch.float32)
    table = measure_latency(whole, "ffn", timer=timer(clock=by_weights))
    pieces = whole.config.vocab_size
    assert table.shape["vocabulary"] == pieces and "embedding_rank" not in table.shape
    fewer = cut_rows(whole, Vocabulary(pieces, tuple(range(pieces - 3))))
    for other, words in (
        (fewer, f"this one has vocabulary {pieces - 3}, not {pieces}; measure one for it, as a run without"),
        (factorise(whole, 4), "this one has embedding_rank 4, not none;"),
    ):
        space = Space(other, "ffn", budget=table)
        with pytest.raises(UserError, match=words):
            space.floor()
        before = replace(table, shape={key: own for key, own in table.shape.items() if key != "vocabulary"})
        assert Space(other, "ffn", budget=before).floor() == Space(whole, "ffn", budget=table).floor()
    thin = measure_latency(factorise(whole, 4), "ffn", timer=timer(clock=by_weights))
    with pytest.raises(UserError, match="this one has embedding_rank none, not 4;"):
        Space(whole, "ffn", budget=thin).floor()


def test_pieces_do_not_matter_to_a_table_of_an_encoder(model, table):
    assert "vocabulary" not in table.shape
    fewer = cut_rows(model, Vocabulary(model.config.vocab_size, tuple(range(20))))
    assert Space(fewer, "ffn", budget=table).floor() == Space(model, "ffn", budget=table).floor()


def test_a_table_of_a_model_with_shared_keys_says_what_this_one_has_not(table):
    shared = replace(table, shape={**table.shape, "kv_heads": 2})
    with pytest.raises(UserError, match="for another model: this one has kv_heads none, not 2; measure one"):
        Space(tiny("bert", dtype=torch.float32, **SIZES), "ffn", budget=shared).floor()


@pytest.mark.parametrize(("text", "ms"), [("5ms", 5), ("5 ms", 5), ("0.005s", 5), ("2.5", 2.5), (3, 3), ("1e-2S", 10)])
def test_a_time_without_a_unit_is_in_milliseconds(text, ms):
    assert milliseconds(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["fast", "5m", "ms", "", "5 min"])
def test_text_that_is_not_a_time_is_refused(text):
    with pytest.raises(UserError, match="write it like 5ms"):
        milliseconds(text)


def test_a_share_is_relative_to_the_latency_of_the_dense_model(table):
    assert table.share_of(latency=table.dense_ms / 4) == table.share_of(speedup=4.0) == 0.25
    for wrong in ({}, {"latency": 1.0, "speedup": 2.0}, {"speedup": 0.0}):
        with pytest.raises(UserError, match="a latency in ms or a speedup above 0"):
            table.share_of(**wrong)


# The choice

TINY = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 2}


def all_choices(space):
    """Every closed choice, `(choices, N)`; at least one hidden dim is kept."""
    every = torch.tensor(list(product([False, True], repeat=len(space))))
    if "hidden" in space.slices:
        every = every[every[:, space.slices["hidden"]].any(dim=1)]
    return torch.unique(torch.stack([space.closure(kept) for kept in every]), dim=0)


def unit_values(space, scores, alive):
    """`(N,)`: the score less the lowest of alive units, plus a small number, times the parameters."""
    own = scores[alive].double()
    least = 1e-6 * float(own.max() - own.min())
    return torch.where(alive, (scores.double() - own.min() + least) * space.unit_cost().double(), 0.0)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (("ffn", "qk", "vo"), 1),
        (("hidden", "head", "sublayer", "ffn"), 1),
        (("layer", "head", "ffn"), 1),
        (("layer", "sublayer", "head"), 1),
        (("qk", "sublayer", "head"), 1),
        (("layer", "ffn"), 2),
    ],
    ids=str,
)
def test_the_kept_units_have_the_highest_total_value(names, layers):
    """Compared with all choices that keep the best layer, for several limits, with and without dead units."""
    model = tiny("bert", num_hidden_layers=layers, dtype=torch.float32, **TINY)
    space = Space(model, *names, budget=measure_latency(model, *names, timer=timer()))
    choices = all_choices(space)
    prices = torch.tensor([space.budget.predict(space, kept) for kept in choices], dtype=torch.double)
    generator = torch.Generator().manual_seed(0)
    for gone in (0.0, 0.3):
        scores = torch.randn(len(space), generator=generator)
        alive = choices[int((prices < limit_by_cost(prices, gone)).nonzero()[-1])]
        values = unit_values(space, scores, alive)
        own = (choices & ~alive).sum(dim=1) == 0
        if layers_of := [space.slices[f"{layer}.layer"].start for layer in range(layers) if "layer" in names]:
            best_layer = max((index for index in layers_of if alive[index]), key=lambda index: float(scores[index]))
            own &= choices[:, best_layer]
        for part in (0.1, 0.4, 0.7, 1.0):
            limit = float(prices[own].quantile(part))
            kept = space.choose(scores, limit / space.budget.dense_ms, alive=alive)
            assert not bool((kept & ~alive).any()) and torch.equal(space.closure(kept), kept)
            assert space.budget.predict(space, kept) <= limit * (1 + 1e-9)
            best = (choices[own & (prices <= limit)].double() @ values).max()
            assert float(kept.double() @ values) == pytest.approx(float(best), rel=1e-4, abs=1e-6)


def limit_by_cost(prices, gone):
    """A limit above the cost of all units, or one that excludes the most costly choices."""
    return float(prices.quantile(1.0 - gone)) + (1.0 if not gone else 0.0)


@pytest.fixture(scope="module")
def larger_model():
    """A model with sizes that rounding can change, and its table."""
    model = tiny("bert", dtype=torch.float32, num_attention_heads=2)
    return model, measure_latency(model, "ffn", "qk", "vo", timer=timer())


def heads_of(space, kept, axis):
    return kept[space.slices[axis]].view(space.table.heads, -1)


def test_dims_up_to_the_widest_head_have_no_cost(larger_model):
    """Heads are stored padded to the widest, so every kept head has as many dims."""
    space = Space(larger_model[0], "ffn", "qk", "vo", budget=larger_model[1])
    kept = space.choose(torch.rand(len(space), generator=torch.Generator().manual_seed(0)), 0.4)
    for layer in range(2):
        for axis in ("qk", "vo"):
            sizes = heads_of(space, kept, f"{layer}.{axis}").sum(dim=1)
            assert len(set(sizes[sizes > 0].tolist())) <= 1
    assert bool(kept.any()) and 0.35 < space.share(kept) <= 0.4


def test_sizes_are_multiples_of_round_to_within_a_latency(larger_model):
    space = Space(larger_model[0], "ffn", "qk", "vo", budget=larger_model[1], round_to=8)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    for share in (0.3, 0.5, 0.9):
        kept = space.choose(scores, share)
        assert space.share(kept) <= share * (1 + 1e-9)
        for group in space.groups:
            parts = 1 if group.kind == "ffn" else space.table.heads
            assert not bool((kept[space.slices[group.name]].view(parts, -1).sum(dim=1) % 8).any())


def test_scores_may_be_nan_or_all_equal(larger_model):
    space = Space(larger_model[0], "ffn", "qk", "vo", budget=larger_model[1])
    for scores in (torch.zeros(len(space)), torch.full((len(space),), torch.nan)):
        assert 0.3 < space.share(space.choose(scores, 0.5)) <= 0.5


def test_a_latency_out_of_reach_is_refused_with_the_floor(model, table):
    space = Space(model, "ffn", budget=table)
    floor = table.predict(space, torch.zeros(len(space)))
    least = at_least(space.floor() * table.dense_ms, ".4g")
    for ask in (lambda share: space.choose(space.ones(), share), lambda share: Magnitude(space, share)):
        assert ask(floor / table.dense_ms) is not None
        with pytest.raises(UserError, match=rf"ms is out of reach: pruning only ffn leaves at least {least} ms"):
            ask(0.99 * floor / table.dense_ms)
        with pytest.raises(UserError, match="cannot be the target: the unpruned model takes"):
            ask(1.2)


def test_the_times_that_a_refusal_names_are_accepted(model, table):
    space = Space(model, "ffn", budget=table)
    for share, named in ((1e-6, r"at least ([\d.]+) ms"), (1.2, r"the unpruned model takes ([\d.]+) ms")):
        for scale in (1.0, 1.1, 1.3, 1.7):
            scaled = replace(table, dense_ms=table.dense_ms * scale, _floors=WeakKeyDictionary())
            with pytest.raises(UserError) as refused:
                scaled.check(space, share)
            scaled.check(space, scaled.share_of(latency=float(re.search(named, str(refused.value))[1])))


@pytest.mark.parametrize("measured", ["all", "own"])
@pytest.mark.parametrize(
    ("units", "others"),
    [
        (("ffn",), "head, qk, vo, sublayer, layer, hidden"),
        (("ffn", "vo"), "sublayer, layer, hidden"),
        (("ffn", "head"), "sublayer, layer, hidden"),
        (("sublayer",), "hidden"),
        (("hidden", "layer"), "head, qk, vo, ffn, sublayer"),
    ],
)
def test_only_units_that_lower_a_latency_are_advised(model, table, units, others, measured):
    own = table if measured == "all" else measure_latency(model, *units, timer=timer())
    space = Space(model, *units, budget=own)
    with pytest.raises(UserError, match=r"ask for more time or add units from .*$") as refused:
        own.check(space, 0.5 * own.floor(space))
    assert set(str(refused.value).rpartition(" from ")[2].split(", ")) == set(others.split(", "))


def test_a_latency_that_all_units_cannot_reach_needs_more_time_alone(model, table):
    space = Space(model, *COMMON_UNITS, budget=table)
    with pytest.raises(UserError, match=r"; ask for more time$"):
        space.choose(space.ones(), 0.5 * space.floor())


# Methods


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("names", UNIT_SETS[:3], ids="-".join)
def test_methods_reach_a_latency_along_their_schedule(model, table, names, name):
    space = Space(model, *names, budget=table)
    schedule = cubic(1.0, 0.5, begin=0.2, end=0.8)
    method, alive = METHODS.get(name)(space, schedule), space.ones().bool()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 7):
        learn(method, step / 6, generator)
        assert not bool((method.alive & ~alive).any())
        assert space.share(method.alive) <= schedule(step / 6) + 1e-9
        alive = method.alive.clone()
    plan = method.plan(0.4)
    assert plan.asked is None
    assert plan.latency["asked_ms"] == 0.4 * table.dense_ms
    assert plan.latency["predicted_ms"] == table.predict(space, plan.masks) <= plan.latency["asked_ms"] * (1 + 1e-9)
    assert plan.latency["predicted_ms"] == pytest.approx(fake_ms(cut(model, plan)))
    assert plan.achieved["prunable"] == space.density(plan.masks)
    assert method.log_values()["share"] == space.share(method.alive)


def test_a_plan_records_its_latency_as_json(model, table):
    space = Space(model, "ffn", budget=table)
    plan = Magnitude(space).plan(0.8)
    data = json.loads(json.dumps(plan.to_dict(space)))
    back = Plan.from_dict(data, model)
    assert back.latency == plan.latency and back.to_dict(space) == data
    assert back.latency["protocol"]["tokens"] == 128
    data["latency"] = 5
    with pytest.raises(UserError, match="latency must be an object"):
        Plan.from_dict(data, model)
    assert "latency" not in Magnitude(Space(model, "ffn")).plan(0.8).to_dict(space)


def test_methods_that_count_parameters_refuse_a_latency(model, table):
    with pytest.raises(UserError, match="Cofi follows a budget of parameters, and this space counts latency"):
        Cofi(Space(model, "ffn", budget=table))
    with pytest.raises(UserError, match="published ranking is for parameters alone"):
        Grain(Space(model, "ffn", budget=table), faithful=True)


def test_a_latency_is_never_accepted_as_a_density(model, table):
    space = Space(model, "ffn", budget=table)
    refusals = [
        lambda: Magnitude(space, density=0.8),
        lambda: Magnitude(space).plan(density=0.8),
        lambda: space.choose(space.ones(), density=0.8),
    ]
    for ask in refusals:
        with pytest.raises(UserError, match="this space counts latency: ask for a share"):
            ask()
    assert Magnitude(space).plan(share=0.8).latency["asked_ms"] == 0.8 * table.dense_ms
