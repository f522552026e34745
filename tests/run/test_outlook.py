"""What a run says before it does anything: its data as it understood it, its stages with their steps."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_world import recipe_values, tokenizer, write_data, write_questions, write_sentences, write_world

from secateur.measure.evaluation import encoded
from secateur.run import density_sweep, disk_check, outlook, pipeline, recipe, run_folder
from secateur.run.context import Context
from secateur.run.models import base_model
from secateur.run.run_data import RunData
from secateur.run.run_rounds import changed
from secateur.system.errors import UserError
from secateur.tasks.embedding import SentenceEmbedding
from secateur.tasks.language import Language
from secateur.tasks.translation import Translation

KEEP_SCORE = {"target.density": None, "target.keep_score": 0.9}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def lines(world, output="run", model="encoder", **changed):
    made = recipe.make(recipe_values(str(world / model), str(world / "data.csv")) | changed)
    return dict(pipeline.dry_run(made, world / output).lines)


def test_the_data_is_described(world):
    said = lines(world)
    assert said["data"].endswith("data.csv") and said["texts"] == "text"
    assert said["labels"] == "label, 2 classes: bad 18, good 18"
    assert said["rows"] == (
        "36 for training (train), 4 for scoring by accuracy "
        "(split off from train by the seed, because the data has no other labelled split)"
    )
    assert "guessed" not in said
    assert said["lengths"] == "0.0% of the training rows reach 24 tokens, at which longer texts are truncated"
    cut = lines(world, **{"data.max_length": 8})
    assert cut["lengths"].startswith("75.0% of the training rows reach 8 tokens")


@pytest.mark.parametrize(
    ("split", "changed", "words"),
    [
        ("dev", {}, "dev"),
        ("test", {}, "test, on which nothing is chosen"),
        ("test", KEEP_SCORE, "test, on which only the teacher's score sets the goal"),
    ],
)
def test_the_split_that_is_scored_and_what_was_guessed_are_named(world, tmp_path, split, changed, words):
    columns = "title,text,label,score\n"
    rows = "".join(f"a fine book,a bad film,{number % 3},{number}\n" for number in range(12))
    (tmp_path / "train.csv").write_text(columns + rows)
    (tmp_path / f"{split}.csv").write_text(columns + rows)
    said = lines(world, data=str(tmp_path), **changed)
    assert said["rows"] == f"12 for training (train), 12 for scoring by accuracy ({words})"
    assert said["guessed"] == (
        "texts from text, not title (--text); labels from label, not score (--label); "
        "classes from the integers in label, not scores (--task-option scores=true)"
    )


def test_it_is_not_said_that_there_is_no_other_split_where_one_is_not_used(world, tmp_path):
    for name in ("train", "eval"):
        write_data(tmp_path / f"{name}.csv")
    said = lines(world, data=str(tmp_path))
    assert said["rows"].endswith("(split off from train by the seed)")
    assert said["guessed"] == "scored rows split off from train, not from eval (--task-option validation=eval)"
    said = lines(world, data=str(tmp_path), **{"data.options": {"validation": "eval"}})
    assert said["rows"] == "40 for training (train), 40 for scoring by accuracy (eval)" and "guessed" not in said


def test_the_stages_are_those_that_the_run_logs(world, tmp_path, drawn):
    said = lines(world)
    assert said["teacher"] == "trained first, in 9 steps of 4 rows, at a learning rate of 5.0e-05"
    assert said["cache"] == "the teacher's outputs are computed once and read from disk, 0 MB"
    assert said["training"] == "16 steps of pruning by grain, 20 of recovery, of 4 rows"
    assert said["units"].startswith("ffn, qk, vo: ") and said["target"] == "density 0.3 of the parameters"
    made = recipe.make(recipe_values(str(world / "encoder"), str(world / "data.csv")))
    pipeline.run(made, tmp_path / "run")
    logged = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert {line["stage"]: line["of"] for line in logged} == {"teacher-training": 9, "prune": 16, "recover": 20}
    assert (tmp_path / "run" / "report.html").read_text().count("<path") > 20, "its pictures are drawn"


def test_a_named_teacher_and_other_targets(world):
    assert lines(world, **{"distillation.cache_gb": 1e-5})["cache"] == (
        "the teacher runs beside the student in every step: its outputs take 1 MB, and distillation.cache_gb is 1e-05"
    )
    assert lines(world, model="classifier")["teacher"].endswith("classifier")
    assert lines(world, **{"target.units": ["head"], "target.density": None, "target.keep": 3})["target"] == "3 units"
    assert "recovery" not in lines(world, **{"method.end": 1.0})["training"]
    sized = lines(world, **{"target.density": None, "target.size": "20kB"})
    assert sized["target"].startswith("0.02 MB of weights, which is about density 0.")
    assert sized["weights"].startswith("about 0.02 MB (embeddings 0.003"), "the most units that fit"


def test_trials_of_layers_are_announced(world):
    open_depth = {"target.units": ["layer", "ffn", "qk", "vo"], "method.trial": 0.5}
    said = lines(world, **open_depth | {"target.density": 0.2})["depth"]
    assert said == "2 and 1 layers are tried, in 18 steps each"
    said = lines(world, **open_depth | {"target.density": 0.7})["depth"]
    assert said == "2 of 2 layers are kept: no other number can reach the target"


def test_of_several_densities_all_are_checked_and_the_trials_suit_the_largest(world):
    values = recipe_values(str(world / "classifier"), str(world / "data.csv"))
    values |= {"target.units": ["layer", "ffn", "qk", "vo"], "target.density": [0.7, 0.2]}
    said = dict(density_sweep.dry_run(recipe.make(values), world / "run").lines)
    assert said["target"] == "density 0.2 of the parameters"
    assert said["depth"] == "2 of 2 layers are kept: no other number can reach the target"
    with pytest.raises(UserError, match="out of reach"):
        density_sweep.dry_run(recipe.make(values | {"target.units": ["head"]}), world / "run")
    assert not (world / "run").exists()


def test_nothing_is_written_and_mistakes_are_refused_as_by_the_run(world):
    lines(world)
    with pytest.raises(UserError, match="out of reach"):
        lines(world, **{"target.units": ["head"], "target.density": 0.01})
    assert not (world / "run").exists()


def test_a_disk_without_room_for_what_is_surely_written_is_refused(world, monkeypatch):
    free = {"bytes": 0}
    monkeypatch.setattr(disk_check, "free_bytes", lambda folder: free["bytes"])
    said = r"the run writes at least \d+ MB to \S*run, where 0 MB are free: free disk, choose"
    made = recipe.make(recipe_values(str(world / "encoder"), str(world / "data.csv")))
    for start in (pipeline.dry_run, pipeline.run):
        with pytest.raises(UserError, match=said):
            start(made, world / "run")
    context = Context(made, world / "run", RunData(made))
    student = base_model(context)
    weights = 4 * student.num_parameters()
    with_checkpoints = disk_check.surely_needed(context, student)
    assert 4 * weights < with_checkpoints < 5 * weights, "teacher, its checkpoint, and the result"
    alone = changed(made, training={"checkpoints": 0})
    without = disk_check.surely_needed(Context(alone, world / "run", RunData(alone)), student)
    assert with_checkpoints - without == 3 * weights
    whole = changed(made, method={"shrink": False})
    more = disk_check.surely_needed(Context(whole, world / "run", RunData(whole)), student)
    assert more - with_checkpoints == 3 * weights, "that of the model before it is cut"
    free["bytes"] = with_checkpoints
    assert lines(world) and not (world / "run").exists()


def test_a_disk_that_may_be_too_small_is_warned_of(world, caplog, monkeypatch):
    made = recipe.make(recipe_values(str(world / "encoder"), str(world / "data.csv")))
    context = Context(made, world / "run", RunData(made))
    monkeypatch.setattr(disk_check, "free_bytes", lambda folder: 2_000_000)
    disk_check.warn_of_disk(context, 2_000_000)
    assert not caplog.messages
    disk_check.warn_of_disk(context, 3_000_000)
    (said,) = caplog.messages
    assert said.startswith("the run needs at most 3 MB of disk, and 2 MB are free where ")


def test_a_folder_that_cannot_be_written_is_refused_without_a_run(world, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to \S*file/run \(Not a directory\): choose a folder"):
        lines(world, output=tmp_path / "file" / "run")
    monkeypatch.setattr(run_folder.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(UserError, match=r"cannot write to \S*inner/run \(Permission denied\): choose a folder"):
        lines(world, output=tmp_path / "inner" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("write", "task", "labels", "rows"),
    [(write_sentences, "tokens", "ner_tags, 5 labels: O, B-book", 35), (write_questions, "questions", None, 36)],
)
def test_every_task_describes_its_data(world, tmp_path, write, task, labels, rows):
    changed = {"data": write(tmp_path / "rows.jsonl"), "data.task": task}
    said = lines(world, **changed)
    windows = "% of the training texts are longer than 24 tokens and are divided into windows"
    assert said["lengths"].endswith(windows if task == "questions" else "at which longer texts are truncated")
    assert said.get("labels", "").startswith(labels or "") and said["rows"].startswith(f"{rows} for training")


def lengths(task, most):
    """The line about lengths of a task whose rows the small tokenizer encodes with a maximum."""
    made = recipe.make({"model": "m", "data": "d", "data.max_length": most})
    words = tokenizer()
    rows = [] if task.packed else encoded(task, "train", words, most)
    return outlook.lengths_text(SimpleNamespace(task=task, train_rows=rows, recipe=made, tokenizer=words))


def test_nothing_of_joined_texts_is_truncated(tmp_path):
    (tmp_path / "d.txt").write_text("a good film and a bad book\n" * 9)
    assert lengths(Language.from_data(str(tmp_path / "d.txt")), 8) == (
        "texts are joined and divided into rows of 8 tokens, so that none is truncated"
    )


def test_the_limit_of_a_sentence_model_is_the_one_that_is_named(tmp_path):
    texts = [f"{'good ' * number}film" for number in range(1, 11)]  # 4 to 13 tokens
    (tmp_path / "d.txt").write_text("\n".join(texts))
    task = SentenceEmbedding.from_data(str(tmp_path / "d.txt"))
    own = replace(task, settings=replace(task.settings, max_length=6))
    short = sum(len(text.split()) + 2 < 6 for text in task.splits["train"]["text"])
    count = len(task.splits["train"])
    assert lengths(own, 24).startswith(f"{(count - short) / count:.1%} of the training rows reach 6 tokens")
    assert lengths(task, 24).startswith("0.0% of the training rows reach 24 tokens")


def test_targets_are_counted_by_their_own_limit(tmp_path):
    (tmp_path / "d.tsv").write_text(
        "source\ttarget\n" + "".join(f"film {n}\t{'a good film ' * 4}\n" for n in range(20))
    )
    said = lengths(Translation.from_data(str(tmp_path / "d.tsv"), max_target_length=8), 12)
    assert said == (
        "0.0% of the training sources reach 12 tokens and 100.0% of the training targets reach 8 tokens, "
        "at which longer texts are truncated"
    )


def test_a_finished_run_has_nothing_left_to_do(world, tmp_path):
    made = recipe.make(recipe_values(str(world / "classifier"), str(world / "data.csv")) | {"training.epochs": 1})
    pipeline.run(made, tmp_path / "run")
    with pytest.raises(UserError, match="is finished: there is nothing left to do"):
        pipeline.dry_run(made, tmp_path / "run")
    another = recipe.make(recipe_values(str(world / "classifier"), str(world / "data.csv")))
    with pytest.raises(UserError, match=r"another recipe \(it differs in training.epochs\)"):
        pipeline.dry_run(another, tmp_path / "run")
