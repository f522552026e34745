"""The score of a constant prediction, which a teacher must exceed: each task has one, or says why it has none."""

import json

import pytest
import torch
from datasets import Dataset
from small_world import config, recipe_values, tokenizer, write_questions
from transformers import BertForQuestionAnswering, BertForTokenClassification

from secateur.measure.evaluation import encoded
from secateur.run import pipeline, recipe
from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks.questions import Questions
from secateur.tasks.task import Task
from secateur.tasks.tokens import Tokens

WORDS = ["a", "good", "film", "and", "book", "dull"]


def sentences(path, tags, rows=60):
    """Sentences of three words, with the tags that `tags` has for the number of a row."""
    table = [{"tokens": [WORDS[(n * k) % 6] for k in (1, 2, 3)], "tags": tags(n)} for n in range(rows)]
    path.write_text("\n".join(map(json.dumps, table)))
    return str(path)


def baseline(task, split="validation"):
    return task.baseline(encoded(task, split, tokenizer(), 16))


def random_tags(parts):
    def tags(number):
        return ["O", *(f"{parts}-{'XY'[(number // k) % 2]}" if (number * k) % 5 < 3 else "O" for k in (3, 7))]

    return tags


def test_every_task_has_a_baseline_or_says_why_there_is_none():
    for name in ("classification", "multilabel", "tokens", "questions", "translation", "summarisation", "reranking"):
        assert TASKS.get(name).baseline is not Task.baseline
    assert "None: " in TASKS.get("translation").baseline.__doc__


@pytest.mark.parametrize("part", ["B", "I", "U", "S"])
def test_the_baseline_of_entities_is_that_of_single_words_in_any_scheme(tmp_path, part):
    task = Tokens.from_data(sentences(tmp_path / "d.jsonl", random_tags(part)))
    assert task.metric == "f1" and 0.1 < baseline(task) < 0.6


def test_the_baseline_of_words_is_the_share_of_the_commonest_tag(tmp_path):
    task = Tokens.from_data(sentences(tmp_path / "d.jsonl", lambda number: ["D", "N", "N"]))
    assert baseline(task) == pytest.approx(2 / 3)


def test_the_baseline_of_questions_is_an_answer_of_the_same_words_of_any_context(tmp_path):
    Dataset.from_list(
        [
            {"question": "which?", "context": f"good film {n}", "answers": {"text": ["good film"], "answer_start": [0]}}
            for n in range(20)
        ]
    ).to_json(tmp_path / "d.jsonl")
    assert baseline(Questions.from_data(str(tmp_path / "d.jsonl"))) == 1.0
    task = Questions.from_data(write_questions(tmp_path / "e.jsonl", unanswerable=True), metric="exact_match")
    unanswered = sum(not answers for answers in task.splits["train"]["answers"])
    assert baseline(task, "train") >= unanswered / len(task.splits["train"]) > 0


def random_model(folder, kind, names):
    torch.manual_seed(0)
    kind(config(num_labels=len(names), id2label=dict(enumerate(names)))).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "tags", [random_tags("B"), random_tags("I"), lambda n: ["D", "N", "V"] if n % 3 else ["N"] * 3]
)
def test_a_random_tagger_as_teacher_is_refused_with_its_score(tmp_path, checked_teachers, tags):
    data = sentences(tmp_path / "d.jsonl", tags)
    task = Tokens.from_data(data)
    model = random_model(tmp_path / "model", BertForTokenClassification, task.labels)
    with pytest.raises(
        UserError, match=rf"the teacher has {task.metric} 0\.\d+ on [67] .*rows.*, no better than 0\.\d+"
    ):
        pipeline.run(recipe.make(recipe_values(model, data) | {"data.task": "tokens"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_random_model_that_answers_questions_is_refused_as_teacher(tmp_path, checked_teachers):
    model = random_model(tmp_path / "model", BertForQuestionAnswering, ("a", "b"))
    values = recipe_values(model, write_questions(tmp_path / "d.jsonl")) | {"data.task": "questions"}
    with pytest.raises(UserError, match=r"the teacher has f1 0\.\d+ on .* no better than 0\.\d+"):
        pipeline.run(recipe.make(values), tmp_path / "run")
