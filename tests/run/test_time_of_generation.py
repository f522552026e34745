"""A run for a time of generation: a decoder whose heads share keys, by a table of its kinds of units."""

import json

import pytest
from docs_world import write_decoder
from fake_clock import by_weights, timer
from small_world import recipe_values
from transformers import AutoModelForCausalLM

from secateur.budget.latency import LatencyTable
from secateur.run import pipeline, recipe
from secateur.run.baselines import layers
from secateur.system.errors import UserError


def by_a_clock(table, small, dense, **how):
    """As `measure_again`, by a clock that counts weights."""
    return timer(clock=by_weights)(small, dense)


def test_a_decoder_is_pruned_to_a_time_of_its_generation(tmp_path, monkeypatch):
    """By a table from a clock that counts weights; the time that is measured in the end is real, and says nothing."""
    monkeypatch.setattr(layers, "measure_again", by_a_clock)
    write_decoder(tmp_path / "llama")
    (tmp_path / "texts.txt").write_text("a fine film\na dull and bad book\n" * 40)
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    units, call = ["layer", "kv_head", "head", "ffn"], {"batch": 1, "tokens": 4, "part": "generation", "beams": 2}
    table = LatencyTable.measure(dense, *units, timer=timer(clock=by_weights), **call)
    table.save(tmp_path / "table.json")
    values = recipe_values(str(tmp_path / "llama"), str(tmp_path / "texts.txt"))
    values |= {"teacher": str(tmp_path / "llama"), "data.task": "language", "target.units": units}
    values |= {"target.density": None, "target.speedup": 2.2, "target.timed": "generation", "target.beams": 2}
    values |= {"target.latency_table": str(tmp_path / "table.json"), "distillation.check_teacher": False}
    values |= {"training.epochs": 2, "target.layers": 1, "target.shape": (1, 4)}
    values |= {"measurement.baselines": ["first-layers"]}
    said = dict(pipeline.dry_run(recipe.make(values), tmp_path / "run").lines)["target"]
    times = f"{table.dense_ms / 2.2:.4g} of {table.dense_ms:.4g} ms"
    assert said == f"45.5% of the latency, {times} (8 x 128 tokens, a fake, 1 threads)"
    report = pipeline.run(recipe.make(values), tmp_path / "run")
    assert report.target["asked_speedup"] == pytest.approx(2.2) and report.target["predicted_speedup"] >= 2.2
    assert report.target["protocol"]["part"] == "generation, 2 beams" and report.target["measured_ms"] > 0
    assert "measured 1 x 4, generation, 2 beams, ms" in (tmp_path / "run" / "report.md").read_text()
    decided = json.loads((tmp_path / "run" / "baselines" / "layers.json").read_text())
    assert decided["layers"] == 1 and decided["by"] == "what the target times"
    assert "these forwards say nothing of it" in (tmp_path / "run" / "report.md").read_text()
    with pytest.raises(UserError, match="was measured with beams 2, not 3"):
        pipeline.run(recipe.make(values | {"target.beams": 3}), tmp_path / "other")
