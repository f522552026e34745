"""Encoders of one token type whose tokenizer gives two for a pair, such as the RoBERTas of KLUE."""

import json

import pytest
import small_tokenizers
import torch
from tiny_models import tiny
from transformers import AutoTokenizer

from secateur.budget.space import Space
from secateur.measure.evaluation import encoded, scores
from secateur.methods.magnitude import Magnitude
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.tasks import TASKS
from secateur.tasks.classification import Classification
from secateur.tasks.predictors import Asked
from secateur.tasks.task import PaddingCollator
from secateur.training.loss import TermLoss
from secateur.training.objectives import Labels, Logits
from secateur.training.teacher_cache import CachedTeacher

PAIRS = [small_tokenizers.sentences()[first : first + 2] for first in range(0, 40, 2)]


def model(kind, **sizes):
    """A classifier of pairs for the words of BERT; RoBERTa has one type, BERT two."""
    words = small_tokenizers.KINDS["bert"]()
    sizes |= {"vocab_size": len(words), "max_position_embeddings": 130, "pad_token_id": 0}
    made = tiny(kind, dtype=torch.float32, **sizes)
    made.config.id2label = {0: "no", 1: "yes"}
    return made


def write(folder, made):
    made.save_pretrained(folder)
    small_tokenizers.KINDS["bert"]().save_pretrained(folder)
    return folder


@pytest.fixture
def roberta(tmp_path):
    return write(tmp_path / "roberta", model("roberta", type_vocab_size=1))


@pytest.fixture
def task(tmp_path):
    rows = [{"premise": one, "hypothesis": two, "label": ("no", "yes")[i % 2]} for i, (one, two) in enumerate(PAIRS)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Classification.from_data(str(tmp_path / "data.jsonl"), metric=None, seed=0, rows=None)


def test_the_tokenizer_gives_types_only_to_a_model_that_has_several(roberta, tmp_path):
    assert "token_type_ids" in AutoTokenizer.from_pretrained(roberta)(*PAIRS[0])
    assert {*open_tokenizer(roberta)(*PAIRS[0])} == {"input_ids", "attention_mask"}
    bert = write(tmp_path / "bert", model("bert"))
    assert 1 in open_tokenizer(bert)(*PAIRS[0])["token_type_ids"]


def test_a_pair_is_predicted(roberta):
    asked = Asked(open_model(roberta), open_tokenizer(roberta), 64, {})
    (one,) = TASKS.get("classification").predictor(asked, [PAIRS[0]])
    ids = AutoTokenizer.from_pretrained(roberta)(*PAIRS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = asked.model(ids).logits.softmax(-1)[0].tolist()
    assert list(one["scores"].values()) == pytest.approx(expected, abs=1e-5)


def test_the_tokenizer_of_a_cut_model_gives_none_in_transformers_either(roberta, tmp_path):
    dense = open_model(roberta)
    small = cut(dense, Magnitude(Space(dense, "ffn")).plan(density=0.9))
    save(small, tmp_path / "small", tokenizer=open_tokenizer(roberta))
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "small")(*PAIRS[0])


def test_rows_are_trained_on_and_scored(roberta, task):
    words = open_tokenizer(roberta)
    rows = encoded(task, "validation", words, 64)
    loaded = task.load_model(roberta)
    loss = TermLoss([Labels()], loaded, None, ["labels"])
    batch = task.collator(words)(rows)
    assert loss.values(loss.step(loaded, batch))["labels"].isfinite()
    assert 0 <= scores(loaded, task, rows, words)["accuracy"] <= 1


def test_a_teacher_of_one_type_teaches_and_is_scored_beside_a_student_of_two(roberta, task, tmp_path):
    student, words = model("bert"), small_tokenizers.KINDS["bert"]()
    rows, teacher = encoded(task, "validation", words, 64), open_model(roberta)
    assert any(1 in row["token_type_ids"] for row in rows)
    batch = task.collator(words)(rows[:2])
    step = TermLoss([Logits(2.0)], student, teacher, ["labels"]).step(student, batch)
    with torch.no_grad():
        expected = teacher(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(step.teacher.logits, expected)
    bare = [{name: row[name] for name in words.model_input_names} for row in rows[:2]]
    kept = CachedTeacher.of(teacher, bare, PaddingCollator(words), tmp_path / "cache", layers=())
    found = kept(torch.tensor([0, 1]), batch["attention_mask"], output_hidden_states=False).logits
    torch.testing.assert_close(found, expected)
    assert 0 <= scores(teacher, task, rows, words)["accuracy"] <= 1
