"""A run with the vocabulary of its task: the same weights, in a smaller table, with a tokenizer that fits it."""

import json

import pytest
import torch
from interrupted_runs import CopyAt, InterruptAt, copy_of
from safetensors.torch import load_file
from small_world import WORDS, recipe_values, write_data, write_model, write_pairs, write_world

from secateur.report.report_text import vocabulary_sentence
from secateur.run import density_sweep, pipeline, recipe
from secateur.run.vocabulary_data import VocabularyData, data_of, reported
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import load
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.system.errors import UserError

USED = (0, 1, 2, 3, 5, 8, 9, 10, 11)
"""The special tokens and the words of the data; "a", "bad" and "good" are not used."""
ROWS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def runs(world):
    """The folders of a run with all pieces, and of the same with those of its task; each trains its teacher."""
    for pieces in ("all", "task"):
        pipeline.run(made(world, **{"vocabulary.pieces": pieces}), world / pieces)
    return world / "all", world / "task"


def made(world, model="encoder", **changed):
    return recipe.make(recipe_values(str(world / model), str(world / "data.csv")) | changed)


def test_the_pieces_of_the_training_texts_are_kept(world):
    data = data_of(made(world, **{"vocabulary": "task"}))
    assert data.vocabulary == Vocabulary(len(WORDS), USED)
    assert data.train_rows[0]["input_ids"] == data.vocabulary.renumbered(data.whole.train_rows[0]["input_ids"])
    assert data.whole.vocabulary is None and data.whole.whole is data.whole
    kept = reported(data)
    assert kept["pieces"] == {"teacher": 12, "model": 9}
    assert kept["coverage"] == {"texts": 4, "same": 1.0, "unknown_before": 0.0, "unknown_after": 0.0, "longer": 1.0}
    assert reported(data_of(made(world))) is None


def test_rare_pieces_go_and_other_texts_add_theirs(world, tmp_path):
    (tmp_path / "more.txt").write_text("a good film\n")
    rare = data_of(made(world, **{"vocabulary.pieces": "task", "vocabulary.min_count": 100}))
    assert rare.vocabulary.kept == (0, 1, 2, 3, 11), "of the words only `and` occurs 100 times"
    assert reported(rare)["coverage"]["same"] == 0.0 and reported(rare)["coverage"]["unknown_after"] > 0.3
    more = data_of(made(world, **{"vocabulary.pieces": "task", "vocabulary.texts": [str(tmp_path / "more.txt")]}))
    assert more.vocabulary.kept == (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11)


@pytest.mark.parametrize("held_out", [{"training.select": 4}, {"data.tuning_rows": 9}])
def test_rows_that_are_held_out_of_all_training_do_not_count(world, held_out):
    """Otherwise weights and settings would be chosen on rows that can lose no piece, as scored ones can."""
    data = data_of(made(world, **{"vocabulary": "task"} | held_out))
    counts = torch.zeros(len(WORDS), dtype=torch.int64)
    for row in data.whole.train_rows:
        counts += torch.bincount(torch.tensor(row["input_ids"]), minlength=len(WORDS))
    assert torch.equal(data.counted_pieces(len(WORDS)), counts)
    assert len(data.train_rows) == len(data.task.splits["train"]) - data.recipe.reserved


def test_the_targets_of_a_task_that_generates_count_too(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    rows = [{"source": "a film", "target": "good"}] * len(rows)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = recipe_values(str(tmp_path / "model"), str(tmp_path / "pairs.jsonl"))
    write_model(tmp_path / "model")
    task = data_of(recipe.make(values | {"data.task": "translation", "vocabulary": "task"}))
    assert isinstance(task, VocabularyData)
    tokens = {WORDS[number] for number in task.counted_pieces(len(WORDS)).nonzero().flatten().tolist()}
    assert {"a", "film", "good"} <= tokens and "book" not in tokens


def test_a_run_has_the_same_weights_with_fewer_rows(runs):
    whole, task = (load(folder / "model").state_dict() for folder in runs)
    rows = next(name for name in whole if name.endswith(ROWS))
    torch.testing.assert_close(task.pop(rows), whole.pop(rows)[list(USED)])
    torch.testing.assert_close(task, whole)


def test_the_teacher_keeps_its_vocabulary_and_the_model_has_its_own_tokenizer(runs, world):
    whole, task = (json.loads((folder / "report.json").read_text()) for folder in runs)
    assert open_model(runs[1] / "teacher").config.vocab_size == len(open_tokenizer(runs[1] / "teacher")) == 12
    assert load(runs[1] / "model").config.vocab_size == len(open_tokenizer(runs[1] / "model")) == 9
    assert task["teacher_scores"] == whole["teacher_scores"] and task["scores"] == whole["scores"]
    assert task["parameters"]["teacher"] == whole["parameters"]["teacher"]
    assert whole["parameters"]["model"] - task["parameters"]["model"] == 3 * 16
    assert task["density"]["prunable"] == whole["density"]["prunable"]
    assert task["density"]["model"] < whole["density"]["model"], "of all parameters of the teacher"
    assert whole["vocabulary"] is None
    assert vocabulary_sentence(task["vocabulary"]) in (runs[1] / "report.md").read_text()


def test_the_plan_records_the_pieces_and_cuts_the_teacher_as_well(runs):
    plan = json.loads((runs[1] / "model" / "plan.json").read_text())
    assert plan["vocabulary"] == {"size": 12, "kept": [[0, 3], [5, 5], [8, 11]]}
    teacher = open_model(runs[1] / "teacher")
    assert Plan.load(runs[1] / "model" / "plan.json", teacher).vocabulary == Vocabulary(12, USED)


def test_a_dry_run_says_what_is_kept(world):
    lines = dict(pipeline.dry_run(made(world, vocabulary="task"), world / "dry").lines)
    assert lines["vocabulary"] == (
        "9 of 12 pieces are kept, with which 100.0% of the scored rows have the same tokens as before; "
        "unknown tokens 0.00% before, 0.00% after"
    )
    assert "vocabulary" not in dict(pipeline.dry_run(made(world), world / "dry").lines)


def test_every_density_of_a_sweep_has_the_pieces(world):
    many = made(world, "classifier", **{"vocabulary": "task", "target.density": [0.5, 0.3]})
    density_sweep.sweep(many, world / "sweep")
    for density in ("0.5", "0.3"):
        assert load(world / "sweep" / density / "model").config.vocab_size == 9


def test_texts_that_changed_since_the_cut_are_refused(world, monkeypatch):
    folder, own = world / "changed", world / "changed.csv"
    write_data(own)
    run = recipe.make(recipe_values(str(world / "classifier"), str(own)) | {"vocabulary": "task"})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("secateur.run.stages.recover.train", interrupted)
        pipeline.run(run, folder)
    own.write_text(own.read_text().replace("dull", "bad"))
    with pytest.raises(UserError, match="the data changed since the run"):
        pipeline.run(run, folder)
    begun = json.loads((folder / "fingerprint.json").read_text())
    del begun["vocabulary"], begun["reference"]  # as of an older version, of these data
    begun["data"] = data_of(run).task_as_read.fingerprint()
    (folder / "fingerprint.json").write_text(json.dumps(begun))
    with pytest.raises(UserError, match=r"other pieces than the cut model in .*cut: start a new run"):
        pipeline.run(run, folder)


def test_an_interrupted_pruning_does_not_go_on_with_other_texts(world, tmp_path):
    """One word is replaced by another: as many pieces are kept, so that a checkpoint would load."""
    more, folder = tmp_path / "more.txt", tmp_path / "run"
    more.write_text("bad\n")
    values = {"vocabulary.pieces": "task", "vocabulary.texts": [str(more)], "training.checkpoints": 2}
    run = made(world, "classifier", **values)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(run, folder, [InterruptAt("prune", 13)])
    more.write_text("good\n")
    assert len(data_of(run).vocabulary) == 10
    with pytest.raises(UserError, match=r"^the texts of the vocabulary, or the tokenizer, changed since the run in"):
        pipeline.run(run, folder)
    more.write_text("bad\nbad\n")
    assert pipeline.run(run, folder).vocabulary["pieces"]["model"] == 10, "the same pieces"


SMALL = {"vocabulary": "task", "target.embedding_rank": 4, "storage.embeddings": "int8", "storage.dtype": "bf16"}


def test_a_killed_run_with_a_small_table_gives_the_same_file(world, tmp_path):
    """Law 8, of a run with fewer pieces, factorised embeddings, rows in int8 and other weights in bf16."""
    run = made(world, "classifier", **SMALL, **{"training.checkpoints": 2})
    whole, copies = tmp_path / "whole", tmp_path / "copies"
    pipeline.run(run, whole, [CopyAt(whole, copies, ("prune", 13), ("recover", 13))])
    for stage in ("prune", "recover"):
        again = copy_of(copies, stage, 13)
        pipeline.run(run, again)
        mine, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (again, whole))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs), stage


def interrupted(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary.min_count": 2}, "vocabulary.pieces is all: set it to task"),
        ({"vocabulary.texts": ["x.txt"]}, "vocabulary.pieces is all: set it to task"),
        ({"vocabulary": "words"}, "vocabulary.pieces: expected 'all' or 'task', not 'words'"),
        ({"vocabulary.pieces": "task", "vocabulary.min_count": 0}, "vocabulary.min_count: expected a number above 0"),
    ],
)
def test_keys_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError) as refused:
        recipe.make({"model": "m", "data": "d"} | change)
    assert message in str(refused.value)


def test_a_missing_file_of_texts_is_refused_before_the_folder_is_touched(world):
    absent = made(world, **{"vocabulary.pieces": "task", "vocabulary.texts": ["none.txt"]})
    with pytest.raises(UserError, match=r"none\.txt cannot be read"):
        pipeline.run(absent, world / "untouched")
    assert not (world / "untouched").exists()
