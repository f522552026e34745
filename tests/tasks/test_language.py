"""The task of language modelling: texts packed into blocks, and the scores of next tokens."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_tokenizers import roberta
from transformers import EvalPrediction, LlamaConfig, LlamaForCausalLM

from secateur.measure.evaluation import encoded, scores_with_error, shuffled
from secateur.measure.sensitivity import sensitivity
from secateur.system.errors import UserError
from secateur.tasks.language import Language

TEXTS = [f"text number {number} is a short one." for number in range(40)]


@pytest.fixture
def data(tmp_path):
    for name, texts in {"train": TEXTS, "validation": TEXTS[::5]}.items():
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts) + "\n")
    return str(tmp_path)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=701, num_key_value_heads=1, **sizes)).eval()


def test_all_tokens_are_in_blocks_in_their_order_and_each_text_ends(data):
    task, tokenizer = Language.from_data(data), roberta()
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 40, "validation": 8}  # no empty lines
    blocks = task.encode(task.splits["train"], tokenizer, 32)
    wanted = [
        token
        for text in TEXTS
        for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    assert [token for block in blocks["input_ids"] for token in block] == wanted
    assert {len(block) for block in blocks["input_ids"][:-1]} == {32} and blocks["labels"][:] == blocks["input_ids"][:]


def test_the_scores_are_those_of_the_model_itself(data, model):
    """Over blocks of different lengths, of which padding and first tokens do not count."""
    task, tokenizer = Language.from_data(data), roberta()
    rows = encoded(task, "validation", tokenizer, 32)
    losses, right = [], []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        right += (logits.argmax(-1) == ids[0, 1:]).tolist()
    found, error = scores_with_error(model, task, rows, tokenizer)
    assert len({len(row["input_ids"]) for row in rows}) == 2
    assert found["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert error is not None and error >= 0.0


def test_golden_scores():
    """Two tokens with probabilities 1/2 and 1/8, one of them the likeliest: a perplexity of 4."""
    logits = torch.tensor([[[0.5, 0.3, 0.2], [0.125, 0.5, 0.375], [1.0, 0.0, 0.0]]]).clamp(min=1e-9).log()
    labels = torch.tensor([[2, 0, 0]])
    condensed = Language.condensed(logits, labels)
    prediction = EvalPrediction(condensed.numpy(), labels.numpy())
    task = Language(SimpleNamespace())
    assert task.compute_metrics(prediction) == pytest.approx({"accuracy": 0.5, "perplexity": 4.0})
    beside = Language.condensed(logits, (labels, torch.tensor([7])))  # the numbers of the rows
    assert torch.equal(beside, condensed)


def test_the_baseline_is_the_most_frequent_next_token(data, model):
    task = Language.from_data(data)
    rows = [{"labels": [3, 1, 1, 2]}, {"labels": [1, 1]}]
    assert task.baseline(rows) == 3 / 4


def test_a_column_of_texts_is_found_or_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"title": "a b", "content": text, "number": 3}) + "\n" for text in TEXTS))
    assert Language.from_data(str(path)).splits["train"].column_names == ["text"]
    assert Language.from_data(str(path), text="title").splits["validation"]["text"][0] == "a b"
    assert len(Language.from_data(str(path), rows=5).splits["train"]) == 5
    with pytest.raises(UserError, match="'number' of the train split holds no text"):
        Language.from_data(str(path), text="number")
    with pytest.raises(UserError, match="names 2 columns"):
        Language.from_data(str(path), text=["title", "content"])


def test_another_main_score_and_a_model_without_the_head_are_refused(data, model):
    with pytest.raises(UserError, match="'perplexity' cannot be the main score"):
        Language.from_data(data, metric="perplexity")
    task = Language.from_data(data)
    model.config.architectures = ["LlamaForSequenceClassification"]
    assert not task.is_finetuned(model)
    model.config.architectures = ["LlamaForCausalLM"]
    assert task.is_finetuned(model)


def test_cuts_of_groups_are_scored_by_the_same_numbers(data, model):
    """Outputs of cuts are condensed batch by batch, and not collected as logits."""
    task, tokenizer = Language.from_data(data), roberta()
    study = sensitivity(model, task, tokenizer, units=("ffn",), densities=(1.0, 0.5), rows=8, max_length=32)
    rows = encoded(task, "train", tokenizer, 32, shuffled(40, 0)[:8])
    assert study.dense == pytest.approx(scores_with_error(model, task, rows, tokenizer)[0]["accuracy"], abs=1e-6)


def test_padding_is_on_the_right_without_labels(data):
    task, tokenizer = Language.from_data(data), roberta()
    tokenizer.pad_token, tokenizer.padding_side = None, "left"
    batch = task.collator(tokenizer)(
        [
            {"input_ids": [5, 6], "attention_mask": [1, 1], "labels": [5, 6], "length": 2},
            {"input_ids": [7, 8, 9], "attention_mask": [1] * 3, "labels": [7, 8, 9], "length": 3},
        ]
    )
    assert batch["labels"].tolist() == [[5, 6, -100], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]] and "length" not in batch
