"""A cut model that gets other outputs, or tokens, can be saved, loaded in every way, and verified."""

import pytest
import torch
from tiny_models import inputs, random_masks, tiny
from torch import nn

from secateur.budget.space import Space
from secateur.deploy.verify import verify_folder
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.uncut import planned_space
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.training.hidden_states import Hidden
from secateur.training.loss import TermLoss


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


@pytest.mark.parametrize("units", [("ffn",), ("hidden", "ffn")], ids=["ffn", "hidden"])
@pytest.mark.parametrize("kept", [(0, 1, 2, 3, *range(10, 26)), (*range(4), *range(30, 50))], ids=["inside", "last"])
def test_tokens_are_added_behind_the_kept_pieces_of_a_vocabulary(kept, units, tmp_path):
    model = with_pieces(small("bert", units=units), Vocabulary(50, kept))
    model.resize_token_embeddings(len(kept) + 2)
    assert Vocabulary.from_dict(model.plan["vocabulary"]) == Vocabulary(52, (*kept, 50, 51))
    assert_loads(model, tmp_path)
    TermLoss([Hidden()], model, tiny("bert", dtype=torch.float32), ()).bind(tiny("bert", dtype=torch.float32))
    again = with_pieces(load(tmp_path), Vocabulary(len(kept) + 2, (0, 1, 2, 3, len(kept) + 1)))  # cut once more
    assert planned_space(again)[1].vocabulary == Vocabulary(52, (*kept[:4], 51))


def test_a_vocabulary_loses_its_last_pieces_where_rows_are_taken_away(tmp_path):
    model = with_pieces(small("bert", units=("ffn",)), Vocabulary(50, (0, 1, 2, 3, 8, 9, 20)))
    model.resize_token_embeddings(5)
    assert Vocabulary.from_dict(model.plan["vocabulary"]) == Vocabulary(50, (0, 1, 2, 3, 8))
    save(model, tmp_path)
    assert load(tmp_path).config.vocab_size == 5


@pytest.mark.parametrize("thin", [{"embedding_rank": 4}, {"embedding_rows": "int8"}], ids=["factors", "int8"])
def test_thin_embeddings_are_not_resized_and_say_what_to_do(thin):
    dense = tiny("bert", dtype=torch.float32)
    model = cut(dense, Plan.of_all_units(dense, **thin))
    with pytest.raises(ValueError, match="cannot be resized: add the tokens to the dense model, and cut that"):
        model.resize_token_embeddings(60)
    model.resize_token_embeddings(50)  # as many as there are
    assert model.config.vocab_size == 50
