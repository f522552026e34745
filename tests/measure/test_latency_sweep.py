"""Measuring a latency table: it predicts cut models, and its costs rise with the sizes even if the clock is noisy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_clock import SIZES, UNIT_SETS, timer
from fake_clock import milliseconds as fake_ms
from tiny_models import COMMON_UNITS, random_masks, tiny

import secateur as sec
from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.measure import latency_sweep
from secateur.measure.latency_sweep import measure_again, measure_latency, target_reached
from secateur.measure.measurement import Measurement
from secateur.measure.timing import thread_count
from secateur.methods.magnitude import Magnitude
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut


@pytest.fixture(scope="module")
def model():
    return tiny("bert", dtype=torch.float32, **SIZES)


@pytest.fixture(scope="module")
def table(model):
    """A table measured for all kinds of units."""
    return LatencyTable.measure(model, *COMMON_UNITS, timer=timer())


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def any_model(request):
    return tiny(request.param, dtype=torch.float32, **SIZES)


@pytest.fixture(scope="module")
def any_table(any_model):
    return LatencyTable.measure(any_model, *COMMON_UNITS, timer=timer())


@pytest.mark.parametrize("names", UNIT_SETS, ids="-".join)
@pytest.mark.parametrize("seed", range(3))
def test_the_latency_of_a_cut_is_predicted(any_model, any_table, names, seed):
    model, table = any_model, any_table
    space = Space(model, *names)
    masks = space.closure(random_masks(space, 0.6, seed=seed) > 0).float()
    small = cut(model, Plan.of(space, masks, source=""))
    assert table.predict(space, masks) == pytest.approx(fake_ms(small), rel=1e-9)
    assert table.predict(space, space.ones()) == pytest.approx(table.dense_ms) == pytest.approx(fake_ms(model))


def test_slow_periods_of_the_machine_cancel_out(model):
    slow = LatencyTable.measure(model, "ffn", timer=timer(pace=lambda turn: 3.0 if turn % 3 == 1 else 1.0))
    steady = LatencyTable.measure(model, "ffn", timer=timer())
    np.testing.assert_allclose(slow.blocks["layers"].mlp, steady.blocks["layers"].mlp, rtol=1e-9)
    assert slow.dense_ms == pytest.approx(steady.dense_ms)


def test_costs_never_fall_with_size_even_with_a_noisy_clock(model):
    noise = np.random.default_rng(0).uniform(0.6, 1.4, 10**4)
    table = LatencyTable.measure(model, *COMMON_UNITS, timer=timer(noise=lambda turn: noise[turn]))
    for hidden in (1, 3, 8):
        costs = table.costs(hidden).kinds["layers"]
        for axis in range(4):
            assert np.diff(costs.attention, axis=axis).min(initial=0.0) >= -1e-12
        assert np.diff(costs.mlp).min() >= -1e-12
        assert costs.attention.min() >= costs.bare_attention >= 0
        assert costs.mlp.min() >= costs.bare_mlp >= 0
        wider = table.costs(min(8, hidden + 2))
        assert (wider.kinds["layers"].attention >= costs.attention - 1e-12).all()
        assert wider.rest >= table.costs(hidden).rest


def test_the_target_is_recorded_as_asked_predicted_and_measured(model, table):
    space = Space(model, "ffn", budget=table)
    plan = Magnitude(space).plan(0.8)
    protocol = {"batch": 8, "tokens": 128}
    dense = Measurement(10.0, (9.0, 11.0), 0, protocol)
    found = target_reached(plan.latency, Measurement(4.0, (4.0, 4.0), 0, protocol, dense))
    assert (found["asked_speedup"], found["measured_ms"], found["measured_speedup"]) == (pytest.approx(1.25), 4.0, 2.5)
    assert found["unpruned_ms"] == {"predicted": table.dense_ms, "measured": 10.0}
    assert (found["protocol"], found["table"]) == (protocol, table.protocol)
    assert found["predicted_speedup"] == table.dense_ms / found["predicted_ms"]


def test_a_target_is_measured_on_the_device_of_its_table(model, table, monkeypatch):
    """Whether the models have been scored on a GPU or not."""
    small = cut(model, Plan.of(Space(model, "ffn"), torch.ones(len(Space(model, "ffn")))))
    found = []
    monkeypatch.setattr(latency_sweep, "measure", lambda *models, **_: found.extend(str(one.device) for one in models))
    measure_again(table, small, tiny("bert", dtype=torch.float32, **SIZES))
    elsewhere = replace(table, protocol={**table.protocol, "device": "meta"})
    measure_again(elsewhere, small, tiny("bert", dtype=torch.float32, **SIZES).to("meta"))
    assert found == ["cpu", "cpu", "meta", "meta"]


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), (3, 3)])
def test_a_target_is_measured_with_the_threads_of_its_table(model, table, monkeypatch, asked, threads):
    """Which are those of the process that measured it, if its call has none."""
    assert table.call.get("threads") is None and table.protocol["threads"] == 1
    own = replace(table, call={**table.call, "threads": asked})
    monkeypatch.setattr(latency_sweep, "measure", lambda *models, **call: call["threads"])
    with thread_count(2):
        assert measure_again(own, model, model) == threads


def test_the_public_table_measures(model):
    """`measure_latency` is public as `LatencyTable.measure`."""
    assert sec.LatencyTable.measure is measure_latency
    assert sec.LatencyTable is LatencyTable
