"""The arithmetic of an estimate, with made-up seconds of a step."""

from dataclasses import replace

import pytest
from small_world import ROUNDS, recipe_values, write_world

from secateur.run import recipe, run_length, step_sample
from secateur.run.context import Context
from secateur.run.costs import Costs, Pace, Speed
from secateur.run.disk_space import bytes_left, bytes_of_moments, bytes_of_run
from secateur.run.estimate import expected_stages, steps_for
from secateur.run.models import base_model
from secateur.run.run_data import RunData
from secateur.run.stages import teacher
from secateur.run.stages.density import QUESTION
from secateur.run.step_sample import Sample
from secateur.run.target import space_of
from secateur.system.errors import UserError

COSTS = Costs(
    dense=Speed(step=1.0, token=0.01, scored=0.02),
    targets={None: Speed(step=0.2, token=0.002, scored=0.004), 1: Speed(step=0.1, token=0.001, scored=0.002)},
    shrinks=True,
    cut=0.0,
    new_shape=0.0,
    lengths=6,
    teacher_step=0.5,
    weights=100,
    memory={"resident": 5_000},
)
PLAIN = {
    "training.epochs": None,
    "training.steps": 1_000,
    "training.evaluations": 0,
    "target.density": 0.2,
    "method.begin": 0.1,
    "method.end": 0.3,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def context_of(world, model="classifier", **changed):
    made = recipe.make(recipe_values(str(world / model), str(world / "data.csv")) | PLAIN | changed)
    return Context(made, world / "run", RunData(made))


def space(context):
    return space_of(context.recipe, base_model(context), None)


def seconds(context, costs=COSTS):
    return {stage.name: stage.seconds for stage in expected_stages(context, space(context), costs)}


def test_steps_cost_what_the_schedule_keeps(world):
    pace = Pace(context_of(world).recipe, space(context_of(world)), COSTS)
    assert pace.cut_at == 0.3 and pace.target.step == pytest.approx(0.2)
    assert pace.pruning(0.1).step == pytest.approx(1.0)  # the schedule has not begun
    cubic = 0.2 + 0.8 * 0.25  # the average share between begin and end
    wanted = (0.1 * 1.0 + 0.2 * (0.2 + 0.8 * (cubic - 0.2) / 0.8)) / 0.3
    assert pace.pruning(0.3).step == pytest.approx(wanted, rel=1e-2)
    assert replace(pace, costs=replace(COSTS, shrinks=False)).pruning(0.3) == COSTS.dense


def test_cuts_on_the_way_and_the_shapes_after_them_take_time(world):
    costs = replace(COSTS, cut=3.0, new_shape=0.5)
    pace = Pace(context_of(world).recipe, space(context_of(world)), costs)
    assert pace.cutting(0.1, steps=100) == 0.0
    assert pace.cutting(0.3, steps=300) == pytest.approx(5 * (3.0 + 0.5 * 6))  # 0.75 ** 5 is the last above 0.2
    assert pace.cutting(0.3, steps=12) == pytest.approx(5 * (3.0 + 0.5 * 2))
    assert replace(pace, costs=replace(costs, shrinks=False)).cutting(0.3, steps=300) == 0.0


def test_a_cut_on_the_way_is_between_the_two_speeds_that_were_measured(world):
    branch = context_of(world, **{"target.density": 0.6, "target.toward": 0.2})
    pace = Pace(branch.recipe, space(branch), COSTS)
    assert pace.target.step == pytest.approx(0.6)
    assert 0.1 < pace.cut_at < 0.3
    assert set(seconds(branch)) == {"outputs", "prune", "recover", "measure"}


def test_a_round_of_layers_comes_first(world):
    made = context_of(world, **ROUNDS | {"target.layers": 1}).recipe
    own = space(context_of(world, **ROUNDS))
    pace = Pace(made, own, COSTS)
    assert pace.target.step == pytest.approx(0.1)
    assert pace.pruning(0.05).step == pytest.approx(1.0)
    after_layers = 0.1 + 0.9 * (0.5 - 0.2) / 0.8
    whole, begin = pace.pruning(0.5).step * 0.5, pace.pruning(0.25).step * 0.25
    assert (whole - begin) / 0.25 == pytest.approx(after_layers, rel=0.02)


def test_the_seconds_of_each_stage(world):
    context = context_of(world)
    found, data = seconds(context), context.data
    tokens = {
        name: sum(len(row["input_ids"]) for row in getattr(data, f"{name}_rows")) for name in ("train", "validation")
    }
    assert found["outputs"] == pytest.approx(0.01 * tokens["train"])
    assert found["recover"] == pytest.approx(700 * 0.2)
    assert found["measure"] == pytest.approx((8 * (10 + 2) + tokens["validation"]) * (0.02 + 0.004))
    assert list(found) == ["outputs", "prune", "recover", "measure"]
    evaluated = seconds(context_of(world, **{"training.evaluations": 5}))
    assert evaluated["recover"] - found["recover"] == pytest.approx(5 * 0.002 * tokens["validation"])
    few = {"training.steps": 10, "training.evaluations": 5}
    of_few, without = seconds(context_of(world, **few)), seconds(context_of(world, **few | {"training.evaluations": 0}))
    difference = of_few["recover"] - without["recover"]
    assert difference == pytest.approx(4 * 0.002 * tokens["validation"]), "7 steps of recovery: every two, and the last"
    assert seconds(context_of(world, model="encoder"))["teacher"] == pytest.approx(9 * 0.5)
    sought = seconds(context_of(world, model="encoder", **{"training.teacher_learning_rate": None}))["teacher"]
    held_out = sum(len(row["input_ids"]) for row in data.held_out_rows)
    assert sought == pytest.approx((9 + 3 * 9) * 0.5 + 3 * 0.02 * held_out)
    assert "recover" not in seconds(context_of(world, **{"method.end": 1.0}))
    assert set(seconds(context, None).values()) == {None}


SOUGHT = {"training.teacher_epochs": None, "training.teacher_learning_rate": None}


def test_a_search_for_a_teacher_is_expected_to_go_as_usual_and_at_most_to_its_end(world, tmp_path):
    context = replace(context_of(world, model="encoder", **SOUGHT), folder=tmp_path)
    held_out = 0.02 * sum(len(row["input_ids"]) for row in context.data.held_out_rows)

    def stage():
        return next(one for one in expected_stages(context, space(context), COSTS) if one.name == "teacher")

    usual = stage()
    assert usual.steps == 930 and usual.seconds == pytest.approx(930 * 0.5 + 6 * held_out)
    assert usual.most == pytest.approx(2_000 * 0.5 + 16 * held_out)
    for steps in (62, 62, 62, 124):
        teacher.RECORD.add(tmp_path, {"learning_rate": 1e-4, "steps": steps}, rows=9)
    assert stage().steps == 620 and stage().most == pytest.approx((2_000 - 310) * 0.5 + 11 * held_out)
    teacher.RECORD.write(tmp_path, {"learning_rate": 1e-4, "steps": 124})
    assert (stage().steps, stage().seconds, stage().most) == (124, 62.0, None)


def test_of_rows_that_trials_do_not_exhaust_the_teacher_is_expected_to_take_all_its_steps(world):
    context = context_of(world, model="encoder", **SOUGHT, **{"training.teacher_steps": 128})
    assert teacher.expected(context) == [4, 4, 4, 8, 16, 92], "4 rows in 16 steps pass twice over the 36 rows"


def test_a_rate_alone_that_is_sought_takes_its_trials_beside_the_steps_that_are_given(world):
    context = context_of(world, model="encoder", **SOUGHT | {"training.teacher_epochs": 1})
    assert teacher.expected(context) == [9] * 4 and sum(teacher.most_expected(context)) == 1_009
    length = context_of(world, model="encoder", **SOUGHT | {"training.teacher_learning_rate": 1e-4})
    assert teacher.expected(length) == [62, 124, 248, 124] and sum(teacher.most_expected(length)) == 2_000


def test_trials_of_layers_are_stages_and_the_smallest_number_is_expected(world):
    context = context_of(world, **ROUNDS | {"target.layers": "auto", "method.trial": 0.1})
    found = seconds(context)
    assert list(found) == ["outputs", "2 layers (trial)", "1 layer (trial)", "prune", "recover", "measure"]
    assert 0 < found["1 layer (trial)"] < 100 * 1.0
    steps_after_cut = 1_000 * (1 - (0.5 + 0.5 * 0.5))
    assert found["recover"] == pytest.approx(steps_after_cut * 0.1)


def test_a_trial_of_scores_recovers_with_all_weights_at_the_speed_of_the_result(world):
    """Of 100 steps 30 prune, of frozen weights, which do not shrink."""
    context = context_of(
        world, model="classifier", **{"method": "subset", "method.train": "scores", "method.trial": 0.1}
    )
    frozen, data = replace(COSTS, shrinks=False), context.data
    scored = 0.004 * sum(len(row["input_ids"]) for row in data.held_out_rows)
    (tried,) = (
        stage.seconds
        for stage in expected_stages(context, space(context), frozen, density_trials=1)
        if stage.name == "densities (trials)"
    )
    assert tried == pytest.approx(30 * 1.0 + 70 * 0.2 + scored)


def test_what_exists_takes_no_time(world, tmp_path):
    context = replace(context_of(world), folder=tmp_path)
    (tmp_path / "cache" / "0123456789abcdef").mkdir(parents=True)
    stages = {stage.name: (stage.seconds, stage.result) for stage in expected_stages(context, space(context), COSTS)}
    assert stages["outputs"] == (0.0, "cached") and stages["prune"][1] == ""
    (tmp_path / "cut").mkdir()
    stages = {stage.name: (stage.seconds, stage.result) for stage in expected_stages(context, space(context), COSTS)}
    assert stages["prune"] == (0.0, "finished") and stages["recover"] == (pytest.approx(140), "")


def test_trials_of_densities_that_are_recorded_take_no_more_time(world, tmp_path):
    context, found = replace(context_of(world), folder=tmp_path), []
    for density in (0.15, 0.07, 0.1):
        stages = expected_stages(context, space(context), COSTS, density_trials=3)
        found.append(next(stage for stage in stages if stage.name == "densities (trials)"))
        QUESTION.add(tmp_path, {"density": density}, rows=10)
    assert [one.result for one in found] == [""] * 3
    assert [one.seconds for one in found] == pytest.approx([found[2].seconds * left for left in (3, 2, 1)])
    (last,) = (one for one in expected_stages(context, space(context), COSTS, 3) if one.name == "densities (trials)")
    assert (last.seconds, last.result) == (0.0, "finished")


def test_a_shape_of_images_counts_as_many_as_the_batch_has(world, monkeypatch):
    """Seconds of a token are those of an image where rows are images."""
    context = context_of(world, **{"measurement.shapes": [[4, 8], [2, 8]]})
    rows = sum(len(row["input_ids"]) for row in context.data.validation_rows)
    assert seconds(context)["measure"] == pytest.approx((6 * 8 * (10 + 2) + rows) * (0.02 + 0.004))
    monkeypatch.setattr(type(context.data.task), "lengths", False)
    assert seconds(context)["measure"] == pytest.approx((6 * (10 + 2) + rows) * (0.02 + 0.004))


def test_minutes_are_those_of_pruning_and_recovery(world):
    minutes = context_of(world, **{"training.steps": None, "training.minutes": 10, "training.evaluations": 4})
    steps = steps_for(minutes, space(minutes), COSTS)
    found = seconds(run_length.with_steps(minutes, steps))
    assert found["prune"] + found["recover"] == pytest.approx(600, abs=1)
    short = context_of(world, **{"training.steps": None, "training.minutes": 0.01})
    with pytest.raises(UserError, match=r"training.minutes 0.01 are too short: 10 steps take about 0.0\d+ minutes"):
        steps_for(short, space(short), COSTS)


def test_disk_holds_two_checkpoints_and_the_models(world):
    assert bytes_of_run(context_of(world), 100) == 2 * 1_200 + 800
    assert bytes_of_run(context_of(world, **{"training.checkpoints": 0}), 100) == 800
    assert bytes_of_run(context_of(world, model="encoder"), 100) == 3 * 1_200 + 1_200
    assert bytes_of_run(context_of(world), 100, moments=50) == 2 * 1_250 + 800
    assert bytes_of_run(context_of(world, **{"training.checkpoints": 0}), 100, moments=50) == 800


def test_disk_that_is_written_is_not_needed_again(world, tmp_path):
    def written(name, count):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(count))
        return bytes_left(context, 1_000, 100)

    context = replace(context_of(world, model="encoder"), folder=tmp_path)
    whole = bytes_of_run(context, 100)
    assert bytes_left(context, 1_000, 100) == 1_000 + whole
    assert written("teacher-training/checkpoint-3/model.safetensors", 1_200) == 1_000 + whole - 1_200
    assert written("teacher/model.safetensors", 400) == 1_000 + whole - 1_600
    assert written("cache/0123456789abcdef/logits.npy", 900) == whole - 1_600, "the outputs are there"
    assert written("prune/checkpoint-2/model.safetensors", 1_200) == whole - 2_800
    assert written("cut/model.safetensors", 100) == whole - 2_900
    assert written("log.jsonl", 5_000) == whole - 2_900


def test_moments_of_a_refit_are_on_disk_only_where_there_is_one(world):
    model = base_model(context_of(world))
    with_refit, without = (context_of(world, **{"method.refit": refit}).recipe for refit in (True, False))
    assert bytes_of_moments(with_refit, model) > bytes_of_moments(without, model) == 0


def test_a_sample_has_the_lengths_of_the_rows_and_their_average():
    rows = [{"input_ids": [0] * (1 + number % 16)} for number in range(320)]
    sample = Sample.of(rows, batch=8, accumulate=2, seed=0)
    assert len(sample.tokens) == 7 and len(sample.rows) == 7 * 16
    assert sample.tokens[0] == max(sample.tokens) > 200 and sample.tokens[1:4] == sample.tokens[4:]
    assert sample.average == pytest.approx(16 * 8.5, rel=0.1)
    proportional = [
        9.0,
        *(0.5 * tokens for tokens in sample.tokens[1:4]),
        *(0.1 * tokens for tokens in sample.tokens[4:]),
    ]
    assert sample.seconds(proportional) == pytest.approx(0.1 * sample.average)
    assert sample.new_shape(proportional) == pytest.approx(0.4 * sum(sample.tokens[1:4]) / 3)
    assert sample.new_shape(proportional[:3]) == 0.0 and sample.lengths == 4
    assert sample.seconds([0.01 * sample.tokens[0]]) == pytest.approx(0.01 * sample.average)


def test_on_a_gpu_the_step_after_the_recorded_one_counts(monkeypatch):
    monkeypatch.setattr(step_sample, "passes", lambda: 3)
    sample = Sample.of([{"input_ids": [0] * 4}] * 64, batch=8, accumulate=1, seed=0)
    assert len(sample.tokens) == 1 + 3 * 3
    timed = [9.0, *[0.5] * 3, *[0.7] * 3, *[0.1] * 3]  # as without graphs, recorded, replayed
    assert sample.seconds(timed) == pytest.approx(0.1)
    assert sample.new_shape(timed) == pytest.approx(0.4 + 0.6)


def test_a_sample_of_fewer_rows_than_a_batch():
    sample = Sample.of([{"input_ids": [0] * 3}] * 5, batch=8, accumulate=2, seed=0)
    assert set(sample.tokens) == {15} and len(sample.rows) == 35
