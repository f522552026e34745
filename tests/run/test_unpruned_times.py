"""A time that is asked for, predicted and measured is over one model: the one that the table is of."""

from functools import partial

import pytest
import torch
from fake_clock import by_weights, milliseconds, timer
from small_world import recipe_values, write_data, write_model
from tiny_models import tiny
from transformers import AutoModelForSequenceClassification

from secateur.measure.latency_sweep import measure_latency
from secateur.run import pipeline, post_training, recipe, target
from secateur.run.post_training import cut_without_training
from secateur.run.recipe import make_group
from secateur.run.stages import measure
from secateur.structure.vocabulary import Vocabulary

KEPT = tuple(range(20))


def clock(model):
    """By the weights of a decoder; by the sizes of a BERT, whose weights have other names."""
    return by_weights(model) if "llama" in model.config.model_type else milliseconds(model)


@pytest.fixture
def against(monkeypatch):
    """The models that the result is measured against, in turn; all times are of a clock that does not tick."""
    models = []

    def recorded(table, small, unpruned, *rest):
        models.append(unpruned)
        return timer(clock=clock)(small, unpruned)

    for place in (measure, post_training):
        monkeypatch.setattr(place, "measure_again", recorded)
    monkeypatch.setattr(target, "measure_latency", partial(measure_latency, timer=timer(clock=clock)))
    return models


@pytest.mark.parametrize("rank", [None, 2])
def test_a_cut_with_fewer_pieces_or_factors_is_measured_against_the_model_of_its_table(against, rank):
    model = tiny("llama", "ForCausalLM", dtype=torch.float32)
    keys = {"target.speedup": 1.05, "target.density": None, "target.units": ("ffn",), "target.timed": "forward"}
    asked = make_group("target", keys | {"target.shape": (1, 4), "target.embedding_rank": rank})
    pieces = Vocabulary(model.config.vocab_size, KEPT)
    method = make_group("method", {"method.name": "magnitude"})
    small, reached = cut_without_training(model, asked, method, vocabulary=pieces)
    (unpruned,) = against
    assert unpruned.config.vocab_size == small.config.vocab_size == len(KEPT)
    factors = [sum(tensor.numel() for tensor in one.get_input_embeddings().parameters()) for one in (unpruned, small)]
    assert factors[0] == factors[1]
    assert reached["unpruned_ms"]["measured"] == pytest.approx(reached["unpruned_ms"]["predicted"])


def test_a_run_with_factors_is_measured_against_the_student_before_pruning(against, tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    values = recipe_values(model, write_data(tmp_path / "data.csv"))
    values |= {"target.density": None, "target.speedup": 1.1, "target.embedding_rank": 2, "target.units": ["ffn"]}
    values |= {"training.epochs": 1, "distillation.check_teacher": False, "measurement.shapes": []}
    pipeline.run(recipe.make(values | {"target.shape": (1, 8)}), tmp_path / "run")
    (unpruned,) = against
    whole = AutoModelForSequenceClassification.from_pretrained(model)
    assert unpruned.num_parameters() < whole.num_parameters()
