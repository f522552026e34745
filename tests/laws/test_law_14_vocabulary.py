"""Law 14: on texts whose pieces are all kept, a model with a cut vocabulary == the model before, bit for bit.

Logits over the vocabulary are those of the kept pieces, up to the noise of a product of matrices with fewer columns.
"""

import pytest
import torch
from kept_pieces import every_second, in_both_numbers, of_kept_pieces, shares_its_pieces
from law_assertions import everything
from tiny_models import LEADING, MODELS, SENTENCES, WRITERS, inputs, tiny

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.factorisation import factorise
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.surgery.vocabulary.token_numbers import token_numbers

FAMILIES = tuple({model.values[0][0]: model for model in WRITERS[::-1]}.values())
GREEDY = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
# A decoder with word embeddings of its own may have another tokenizer.
SHARED = [*(model for model in MODELS if shares_its_pieces(model)), *SENTENCES]


def assert_equal(mine, theirs, vocabulary):
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if tensor.shape[-1] == len(vocabulary):
            torch.testing.assert_close(mine[name], tensor, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(mine[name], tensor), name


@pytest.mark.parametrize("which", SHARED)
def test_the_same_outputs_bit_for_bit(which):
    model = tiny(*which)
    vocabulary = every_second(model)
    small = cut_rows(model, vocabulary)
    assert small.config.vocab_size == len(vocabulary) < model.config.vocab_size
    assert not any(50 in tensor.shape for tensor in (*small.parameters(), *small.buffers()))
    old, new = in_both_numbers(inputs(model), vocabulary)
    assert_equal(everything(small, new), of_kept_pieces(everything(model, old), vocabulary), vocabulary)


@pytest.mark.parametrize("which", SHARED)
def test_a_stock_checkpoint(which, tmp_path):
    """The cut model is one that transformers builds from its config alone."""
    model = tiny(*which, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path).train()  # sinusoidal positions are not saved
    vocabulary = every_second(model)
    small = cut_rows(model, vocabulary)
    assert type(small) is type(model) and small.training and small.dtype == torch.float32
    small.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    _, new = in_both_numbers(inputs(model), vocabulary)
    mine, theirs = everything(loaded, new), everything(small.eval(), new)
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("which", [model for model in LEADING if shares_its_pieces(model)])
def test_factorised_embeddings(which):
    model = factorise(tiny(*which), 5)
    vocabulary = every_second(model)
    old, new = in_both_numbers(inputs(model), vocabulary)
    expected = of_kept_pieces(everything(model, old), vocabulary)
    assert_equal(everything(cut_rows(model, vocabulary), new), expected, vocabulary)


@pytest.mark.parametrize("which", FAMILIES)
def test_generated_texts_are_the_same_where_their_pieces_are_kept(which):
    model = tiny(*which)
    source = {name: value for name, value in inputs(model).items() if not name.startswith("decoder")}
    written = model.generate(**source, **GREEDY)
    numbers = {*source["input_ids"].flatten().tolist(), *written.sequences.flatten().tolist()} | token_numbers(model)
    vocabulary = Vocabulary(model.config.vocab_size, tuple(sorted(numbers)))
    kept, small = torch.tensor(vocabulary.kept), cut_rows(model, vocabulary)
    again = small.generate(**source | {"input_ids": torch.searchsorted(kept, source["input_ids"])}, **GREEDY)
    assert torch.equal(kept[again.sequences], written.sequences)
    for mine, theirs in zip(again.logits, written.logits, strict=True):
        torch.testing.assert_close(mine, theirs[:, kept], rtol=1e-9, atol=1e-10)
