"""Fingerprints of models: the values that version 0.1.0 wrote, and what they depend on."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from secateur.structure.fingerprints import model_fingerprint, weights_fingerprint


@pytest.fixture
def model():
    sizes = {"hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 4}
    model = BertModel(BertConfig(vocab_size=5, max_position_embeddings=4, **sizes))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape) + number)
    return model


def test_the_fingerprint_of_weights_is_that_of_version_0_1_0(model):
    assert weights_fingerprint(model) == "33e152f09442c8bb"


def test_a_weight_changes_both_fingerprints(model):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.pooler.dense.bias[0] += 1.0
    assert weights_fingerprint(changed) != weights_fingerprint(model)
    assert model_fingerprint(changed) != model_fingerprint(model)


def test_the_config_changes_the_fingerprint_of_the_model_alone(model):
    changed = copy.deepcopy(model)
    changed.config.layer_norm_eps = 0.1
    assert weights_fingerprint(changed) == weights_fingerprint(model)
    assert model_fingerprint(changed) != model_fingerprint(model)


@pytest.mark.parametrize("key", ["_name_or_path", "problem_type"])
def test_where_a_model_was_loaded_from_changes_no_fingerprint(model, key):
    changed = copy.deepcopy(model)
    setattr(changed.config, key, "regression")
    assert model_fingerprint(changed) == model_fingerprint(model)
