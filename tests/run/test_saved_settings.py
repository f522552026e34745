"""The configs of a run's result are those of the model that came, but for what pruning changes."""

import json

import pytest
from small_world import recipe_values, write_data, write_model, write_pairs
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from secateur.run import pipeline, recipe
from secateur.run.new_model import new_model
from secateur.tasks.sequences import UNTRAINED
from secateur.tasks.translation import Translation

CHANGED = {"secateur", "auto_map", "architectures", "transformers_version"}
SHORT = {"training.epochs": 1, "training.evaluations": 1, "training.checkpoints": 1}
SIZES = {"layers": 1, "heads": 2, "width": 16, "ffn": 24, "dropout": 0.0, "vocabulary": 40, "max_length": 40}
OWN = {"num_beams": 7, "no_repeat_ngram_size": 3, "length_penalty": 0.6, "max_length": 33, "forced_bos_token_id": 5}


def settings(folder, name="config.json"):
    values = json.loads((folder / name).read_text())
    return {key: value for key, value in values.items() if key not in CHANGED}


def test_the_config_of_an_encoder_is_saved_as_it_came(tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    values = recipe_values(model, write_data(tmp_path / "data.csv")) | SHORT
    pipeline.run(recipe.make(values), tmp_path / "run")
    assert settings(tmp_path / "run" / "model") == settings(tmp_path / "model")


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_the_configs_of_a_generating_model_are_saved_as_they_came(kind, tmp_path):
    data = write_pairs(tmp_path / "data.jsonl")
    new_model(Translation.from_data(data), tmp_path / "new", architecture=kind, **SIZES)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "new")
    delattr(model.config, UNTRAINED)
    model.generation_config = GenerationConfig(**{**model.generation_config.to_diff_dict(), **OWN})
    model.save_pretrained(tmp_path / "new")
    keys = {"target.density": 0.6, "target.units": ["ffn", "head"], "data.options": {"beams": 2}, "data.max_length": 32}
    values = recipe_values(str(tmp_path / "new"), data) | SHORT | keys | {"data.task": "translation"}
    pipeline.run(recipe.make(values), tmp_path / "run")
    for name in ("config.json", "generation_config.json"):
        assert settings(tmp_path / "run" / "model", name) == settings(tmp_path / "new", name)
    assert settings(tmp_path / "new", "generation_config.json").items() >= OWN.items()
