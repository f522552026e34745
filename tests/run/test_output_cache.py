"""Where the teacher's outputs do not fit, it runs beside the student: decided first, and with the same loss."""

import errno
import logging
import os
from dataclasses import replace

import pytest
import torch
from small_world import recipe_values, write_world

from secateur.run import outlook, output_cache, pipeline, recipe
from secateur.run.context import Context
from secateur.run.costs import Costs, Speed
from secateur.run.disk_space import bytes_of_run
from secateur.run.models import load_teacher, teacher_scores
from secateur.run.output_cache import Decision, decide
from secateur.run.run_data import RunData
from secateur.run.stages import outputs
from secateur.training import teacher_run
from secateur.training.loss import TermLoss
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.teacher_run import TeacherRun


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def context_of(world, folder, **changed):
    made = recipe.make(recipe_values(str(world / "classifier"), str(world / "data.csv")) | changed)
    return Context(made, folder / "run", RunData(made))


@pytest.mark.parametrize(
    ("nbytes", "limit_gb", "free", "cached", "why"),
    [
        (8_000_000_000, 8.0, 8e9, True, ""),
        (9_600_000_000, 8.0, 1e12, False, "its outputs take 9.6 GB, and distillation.cache_gb is 8"),
        (9_640_000_000, 9.6, 1e12, False, "its outputs take 9.7 GB, and distillation.cache_gb is 9.6"),
        (140_000_000_000, 200.0, 1.2e11, False, "its outputs take 140.0 GB, and the disk has 120.0 GB left for them"),
        (1_000_000_000, 8.0, -1.0, False, "its outputs take 1.0 GB, and the disk has 0 MB left for them"),
        (1_000_000_000, 8.0, float("inf"), True, ""),
    ],
)
def test_outputs_are_cached_where_the_limit_and_the_disk_allow(nbytes, limit_gb, free, cached, why):
    assert decide(nbytes, limit_gb, free) == Decision(cached, nbytes, why)


def test_outputs_count_before_all_of_them_are_computed(world, tmp_path, monkeypatch):
    """A process that is killed in between writes nothing any more."""
    context, seconds = context_of(world, tmp_path), []
    real = TeacherRun._run

    def run(self, numbers):
        seconds.append(context.accounting.seconds().get("cache"))
        return real(self, numbers)

    monkeypatch.setattr(teacher_run, "MOST_TOKENS", 16)
    monkeypatch.setattr(TeacherRun, "_run", run)
    outputs.outputs_of(context, load_teacher(context))
    assert len(seconds) > 3 and seconds[0] is None and seconds[-1] >= 0


def test_the_size_is_that_of_what_the_terms_read(world, tmp_path):
    context = context_of(world, tmp_path)
    rows = context.data.distillation_rows
    tokens = sum(len(row["input_ids"]) for row in rows)
    logits = 4 * 2 * len(rows)
    alone = output_cache.decision(context_of(world, tmp_path, **{"distillation.hidden": None}))
    whole = output_cache.decision(context)
    assert alone.cached and whole.cached
    assert whole.bytes - alone.bytes == 2 * tokens * 2 * 16 and alone.bytes >= logits  # layers 0 and 2, of 16 dims
    assert output_cache.decision(context_of(world, tmp_path, **{"distillation.cache": False})) == Decision(
        False, why="distillation.cache is false"
    )
    assert not context.folder.exists()


def test_the_disk_must_hold_the_run_as_well_and_what_is_cached_already_fits(world, tmp_path, monkeypatch):
    context = context_of(world, tmp_path)
    teacher = load_teacher(context)
    size, own = output_cache.decision(context).bytes, bytes_of_run(context, teacher.num_parameters())
    monkeypatch.setattr(output_cache, "free_bytes", lambda folder: size + own)
    assert output_cache.decision(context).cached
    monkeypatch.setattr(output_cache, "free_bytes", lambda folder: size + own - 1)
    assert not output_cache.decision(context).cached
    outputs.outputs_of(context, teacher)
    assert output_cache.decision(context).cached


def test_a_run_that_does_not_take_every_row_caches_none(world, tmp_path):
    """Unless an earlier run has left the outputs."""
    short = context_of(world, tmp_path, **{"training.epochs": 0.5})
    rows, taken = len(short.data.distillation_rows), output_cache.rows_taken(short)
    assert taken < rows
    one = output_cache.decision(short)
    assert (one.cached, one.why) == (False, f"the run trains on {taken} rows, and the cache has all {rows}")
    branches = tuple(context_of(world, tmp_path, **{"target.density": 0.5, "target.toward": 0.3}) for _ in range(2))
    assert 2.2 * taken < output_cache.rows_taken(replace(short, branches=branches)) < 2.8 * taken
    outputs.outputs_of(short, load_teacher(short))
    assert output_cache.decision(short).cached


MINUTES = {"training.epochs": None, "training.minutes": 1}


@pytest.mark.parametrize(("steps", "rows"), [(4, 16), (200, None)])
def test_a_run_of_minutes_that_does_not_take_every_row_caches_none(steps, rows, world, tmp_path, monkeypatch):
    """With the teacher in each step the minutes have fewer steps, which are measured again."""
    context, asked = context_of(world, tmp_path, **MINUTES), []
    taken = {True: steps, False: steps - 1}
    costs = Costs(Speed(1.0, 0.0, 0.0), {None: Speed(1.0, 0.0, 0.0)}, False, 0.0, 0.0, 0, None, weights=0, memory={})
    monkeypatch.setattr(outlook, "measured", lambda context, *_: asked.append(cached(context)) or costs)
    monkeypatch.setattr(outlook, "steps_for", lambda context, *_: taken[cached(context)])
    decision = pipeline.decide_cache(context)
    ahead = pipeline.look_ahead(context, None, decision)
    assert decision.cached and asked == ([True] if rows is None else [True, False])
    assert ahead.steps == taken[rows is None]
    pipeline.announce(context, ahead, decision)
    all_rows = len(context.data.distillation_rows)
    why = "" if rows is None else f"the run trains on {rows} rows, and the cache has all {all_rows}"
    kept = output_cache.reported(context)
    assert (kept["cached"], kept["why"]) == (rows is None, why)
    assert cached(pipeline.decided(context)) == (rows is None)


def cached(context):
    return context.recipe.distillation.cache


def test_the_rows_of_trials_and_of_baselines_are_taken_from_the_cache_as_well(world, tmp_path):
    rows = {
        name: output_cache.rows_taken(context_of(world, tmp_path, **{"training.epochs": 10, **changed}))
        for name, changed in {
            "none": {},
            "densities": {"target.density": None, "target.keep_score": 0.9},
            "layers": {"target.units": ["layer", "ffn"], "target.layers": "auto"},
            "baselines": {"measurement.baselines": ["first-layers", "spread-layers", "tfidf"]},
        }.items()
    }
    steps, batch = rows["none"] / 4, 4
    assert rows["densities"] - rows["none"] == 3 * round(0.1 * steps) * batch
    assert rows["layers"] - rows["none"] == 2 * round(0.1 * steps) * batch
    assert rows["baselines"] == 3 * rows["none"]


def test_a_resumed_run_follows_the_record(world, tmp_path, monkeypatch):
    context = context_of(world, tmp_path)
    branch = replace(context, folder=tmp_path / "branch")
    both = replace(context, branches=(branch,))
    output_cache.record(both, Decision(False, 9, "the disk was full"))
    assert output_cache.decision(context) == Decision(False, 9, "the disk was full")
    for one in (pipeline.decided(both), pipeline.decided(branch), *pipeline.decided(both).branches):
        assert not one.recipe.distillation.cache
    assert "outputs" not in pipeline._to_run(output_cache.decided(context))
    output_cache.record(context, Decision(True, 9))
    monkeypatch.setattr(output_cache, "free_bytes", lambda folder: 0)
    assert output_cache.decision(context).cached and pipeline.decided(context).recipe.distillation.cache


def test_a_disk_that_fills_leaves_the_teacher_beside_the_student(world, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    context = context_of(world, tmp_path)
    output_cache.record(context, decision := output_cache.decision(context))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    caplog.set_level(logging.WARNING, "secateur")
    teacher = load_teacher(context)
    assert outputs.outputs_of(context, teacher) is teacher
    (message,) = caplog.messages
    assert "runs beside the student" in message and "No space left on device" in message and "\n" not in message
    assert {path.name for path in context.cache_folder.iterdir()} <= {"lock"}
    kept = output_cache.decision(context)
    assert not kept.cached and kept.bytes == decision.bytes and "No space left" in kept.why
    assert not pipeline.decided(context).recipe.distillation.cache


def test_hidden_states_beyond_float16_do_not_stop_a_run(world, tmp_path):
    context = context_of(world, tmp_path)
    teacher = load_teacher(context)
    with torch.no_grad():
        teacher.base_model.encoder.layer[1].output.LayerNorm.weight.fill_(1e6)
    assert output_cache.decision(context).cached
    assert outputs.outputs_of(context, teacher) is teacher
    assert "do not fit float16" in output_cache.decision(context).why


def test_the_loss_is_the_same_whichever_way(world, tmp_path):
    context = context_of(world, tmp_path)
    teacher = load_teacher(context)
    cached = outputs.outputs_of(context, teacher)
    assert isinstance(cached, CachedTeacher)
    batch = dict(context.data.collator()(context.data.distillation_rows[:6]))
    index, student = batch.pop("index"), pipeline.prune.new_student(context, teacher).eval()
    with torch.no_grad():
        student.classifier.weight.add_(0.1)
        student.base_model.embeddings.LayerNorm.weight.mul_(1.1)
    values = []
    for one in (teacher, cached):
        terms = context.distillation.terms()
        for term in terms:
            term.bind(student, teacher)
        loss = TermLoss(terms, student, one, ["labels"])
        values.append({name: value.item() for name, value in loss.values(loss.step(student, batch, index)).items()})
    assert values[1]["logits"] == pytest.approx(values[0]["logits"], rel=1e-6)
    assert values[1]["hidden"] == pytest.approx(values[0]["hidden"], rel=1e-3) and values[0]["hidden"] > 1e-3


def test_the_scores_of_a_teacher_are_shared_where_it_runs_beside_the_student(world, tmp_path, monkeypatch):
    context = context_of(world, tmp_path, **{"distillation.cache": False})
    teacher = load_teacher(context)
    first = teacher_scores(context, teacher)
    monkeypatch.setattr("secateur.run.teacher_scores.scored", lambda *_: pytest.fail("the teacher is scored again"))
    assert teacher_scores(context, teacher) == first
