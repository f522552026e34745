"""Word embeddings that are factorised with the texts at hand, by a cut and by a run."""

import json
from collections import Counter

import pytest
import torch
from small_world import WORDS, recipe_values, tokenizer, write_world
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from secateur import load
from secateur.cli import app
from secateur.run import recipe
from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student
from secateur.run.vocabulary_data import data_of, piece_counts
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.factorisation import factorise
from secateur.surgery.vocabulary.rows import cut_rows

KEPT, USED = (0, 1, 2, 3, 4, 5, 7, 8, 9, 11), torch.tensor([0, 0, 0, 0, 3, 1, 1, 1, 3, 1])
"""The pieces of the texts and of the tokenizer, and how often the texts have them."""
USED_OF_ALL = [int(USED[KEPT.index(piece)]) if piece in KEPT else 0 for piece in range(12)]
"""How often the texts have each piece of the whole vocabulary."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "texts.txt").write_text("a fine film\n\na dull film and a good film\n", encoding="utf-8")
    return folder


def secateur(*words):
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def product(model):
    """The table that the factors of a model approximate."""
    factors = model.get_input_embeddings()
    return factors.table.weight @ factors.projection.weight.T


def counted(data):
    """How often each word is in the training texts, with a [CLS] and a [SEP] for each."""
    texts = [f"[CLS] {text} [SEP]".split() for text in data.task.splits["train"]["text"]]
    found = Counter(word for text in texts for word in text)
    return torch.tensor([found[word] for word in WORDS])


def data_of_world(world, **changed):
    return data_of(recipe.make(recipe_values(str(world / "classifier"), str(world / "data.csv")) | changed))


def whole(world):
    return AutoModelForSequenceClassification.from_pretrained(world / "classifier")


def counts_with(words, world):
    """How often each word of a tokenizer is in the training texts, special tokens included."""
    texts = data_of_world(world).task.splits["train"]["text"]
    found = Counter(number for text in texts for number in words(text)["input_ids"])
    return torch.tensor([found[number] for number in range(len(words))])


@pytest.mark.parametrize("units", [(), ("--density", 0.5)], ids=["embeddings alone", "units too"])
def test_a_cut_weights_rows_by_the_texts_at_hand(world, tmp_path, units):
    """Those of the data, by a plan too, or else of the vocabulary; without texts, or on request, all alike."""
    words, data = (*units, "--embedding-rank", 4), ("--data", world / "data.csv", "--max-length", 32, "--no-refit")
    ways = {
        "alike": words,
        "data": (*words, *data),
        "plan": ("--plan", tmp_path / "data" / "plan.json", *data),
        "plain": (*words, *data, "--embedding-svd", "plain"),
        "vocabulary": (*words, "--vocabulary", world / "texts.txt"),
        "both": (*words, *data, "--vocabulary", world / "texts.txt"),
    }
    for name, way in ways.items():
        secateur("cut", world / "classifier", "--output", tmp_path / name, *way)
    counts = counted(data_of_world(world))
    expected = {name: factorise(whole(world), 4) for name in ("alike", "plain")}
    expected |= {name: factorise(whole(world), 4, counts) for name in ("data", "plan")}
    fewer = cut_rows(whole(world), Vocabulary(12, KEPT))
    expected["vocabulary"] = factorise(fewer, 4, USED)
    expected["both"] = factorise(fewer, 4, counts_with(tokenizer(words=[WORDS[piece] for piece in KEPT]), world))
    for name, model in expected.items():
        torch.testing.assert_close(product(load(tmp_path / name)), product(model), msg=name)
    found = json.loads(secateur("verify", tmp_path / "data", "--dense", world / "classifier", "--json"))
    assert found["passed"] and found["compact_loaded"] == 0.0


@pytest.mark.parametrize("pieces", ["all", "task"])
@pytest.mark.parametrize("svd", ["frequency", "plain"])
def test_a_run_begins_with_rows_weighted_by_its_training_texts(world, tmp_path, svd, pieces):
    changed = {"target.embedding_rank": 4, "target.embedding_svd": svd, "vocabulary": pieces}
    data = data_of_world(world, **changed)
    context = Context(data.recipe, tmp_path / "run", data)
    teacher = load_teacher(context)
    counts = counted(data)[[*range(12)] if data.vocabulary is None else [*data.vocabulary.kept]]
    assert torch.equal(piece_counts(data.task, data.train_rows, data.tokenizer), counts) and counts.sum() > 200
    expected = factorise(teacher, 4, counts if svd == "frequency" else None)
    assert torch.equal(product(new_student(context, teacher)), product(expected))


def test_further_texts_of_the_vocabulary_weight_rows_of_a_run_too(world, tmp_path):
    """Else a piece that is kept for them alone would be approximated like one that no text has."""
    changed = {"target.embedding_rank": 4, "vocabulary.pieces": "task", "vocabulary.texts": [str(world / "texts.txt")]}
    data = data_of_world(world, **changed)
    context = Context(data.recipe, tmp_path / "run", data)
    teacher = load_teacher(context)
    counts = torch.tensor([found + count for found, count in zip(counted(data), USED_OF_ALL, strict=True)])
    expected = factorise(teacher, 4, counts[[*data.vocabulary.kept]])
    assert torch.equal(product(new_student(context, teacher)), product(expected))


def test_pieces_of_targets_count_too(tmp_path):
    """A task that generates reads its labels as well: they are pieces of its decoder."""
    rows = [{"source": "a film", "target": "good"}] * 10
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    write_world(tmp_path)
    values = recipe_values(str(tmp_path / "encoder"), str(tmp_path / "pairs.jsonl")) | {"data.task": "translation"}
    data = data_of(recipe.make(values))
    few = len(data.train_rows)
    assert piece_counts(data.task, data.train_rows, data.tokenizer)[[4, 7, 9]].tolist() == [few, few, few]
