"""A cut model that gets other outputs, or tokens, can be saved, loaded in every way, and verified."""

import pytest
import torch
from tiny_models import inputs, random_masks, tiny
from torch import nn

from secateur.budget.space import Space
from secateur.deploy.verify import verify_folder
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut


def small(*which, units=("hidden", "ffn"), **sizes):
    model = tiny(*which, dtype=torch.float32, **sizes)
    space = Space(model, *units)
    return cut(model, Plan.of(space, random_masks(space, 0.5)))


def outputs(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


def assert_loads(model, folder):
    batch = inputs(model)
    expected = outputs(model, batch)
    save(model, folder)
    for again in (load(folder), type(model).from_pretrained(folder)):
        assert torch.equal(outputs(again, batch), expected)
    assert verify_folder(folder, [batch]).passed
    return expected


@pytest.mark.parametrize(
    "which",
    [("llama", "ForCausalLM", 0), ("llama", "ForCausalLM", 1), ("t5", None, 0), ("bart", None, 0)],
    ids=["untied", "tied", "t5", "bart"],
)
def test_tokens_are_added_to_a_model_whose_hidden_dims_were_cut(which, tmp_path):
    model = small(*which)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    assert assert_loads(model, tmp_path).shape[-1] == 53


def test_a_head_of_other_outputs_replaces_that_of_a_model_whose_hidden_dims_were_cut(tmp_path):
    model = small("bert", "ForTokenClassification")
    model.classifier, model.config.num_labels = nn.Linear(model.classifier.in_features, 5), 5
    assert assert_loads(model, tmp_path).shape[-1] == 5
