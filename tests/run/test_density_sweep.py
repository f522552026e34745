"""Several densities from one pruning: each is what a run for it alone gives, and the dense model is trained once."""

import json
import shutil

import pytest
import torch
from interrupted_runs import CopyAt, InterruptAt, NoTraining, copy_of
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model

from secateur.measure.evaluation import scored as scored_without_error
from secateur.measure.evaluation import scored_with_error, scores
from secateur.run import pipeline, recipe, run_data, teacher_scores
from secateur.run.context import Context
from secateur.run.density_sweep import contexts_of, dry_run, sweep
from secateur.run.expected_stage import StageWatch
from secateur.run.output_cache import rows_taken
from secateur.run.teacher_scores import kept_classes, kept_scores
from secateur.run.vocabulary_data import data_of
from secateur.surgery.checkpoint import load
from secateur.system.errors import UserError
from secateur.tasks.class_scores import ClassScore

DENSITIES = (0.6, 0.3, 0.15)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    own = recipe_values(write_model(folder / "model"), write_data(folder / "data.csv"))
    own |= {"training.evaluations": 1, "training.checkpoints": 2}
    return own | {"target.density": DENSITIES, "method.begin": 0.0, "method.end": 0.5}


POINTS = [("prune", 3), ("prune", 14), ("recover", 12)]
"""Before the first checkpoint, and after it."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The folder of what kills of the sweep leave."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def swept(values, copies, tmp_path_factory):
    """(folder, reports) of an uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("sweep") / "run"
    return folder, sweep(recipe.make(values), folder, [CopyAt(folder, copies, *POINTS)])


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_there_is_a_finished_run_for_each_density(swept):
    folder, reports = swept
    assert [report.recipe["target"]["density"] for report in reports] == list(DENSITIES)
    for density, report in zip(DENSITIES, reports, strict=True):
        assert 0.6 * density < report.density["prunable"] <= density
        assert load(folder / str(density) / "model").num_parameters() == report.parameters["model"]
    shared = {"recipe.yaml", "versions.json", "teacher", "teacher.json"}
    assert {path.name for path in folder.iterdir()} == {*map(str, DENSITIES), *shared}


def test_the_teacher_and_the_dense_model_are_trained_once(swept):
    _, reports = swept
    stages_of = [set(report.seconds) for report in reports]
    assert {"teacher", "cache", "prune", "recover"} <= stages_of[-1]
    assert all(names == {"cache", "recover", "measure"} for names in stages_of[:-1])  # read back


def test_the_teacher_is_scored_once(values, swept, tmp_path, monkeypatch):
    """By the first of the runs that share it; the numbers are those that a run for itself takes."""
    scored = []
    for real, place in ((scored_without_error, teacher_scores), (scored_with_error, run_data)):
        counted = lambda model, *rest, real=real: scored.append(model) or real(model, *rest)  # noqa: E731
        monkeypatch.setattr(place, real.__name__, counted)
    own = values | {"teacher": str(swept[0] / "teacher"), "target.density": DENSITIES[:2], "training.epochs": 1}
    reports = sweep(recipe.make(own), tmp_path / "run")
    assert sum(model.num_parameters() == reports[0].parameters["teacher"] for model in scored) == 1
    assert len(scored) == 3
    alone = pipeline.run(
        recipe.make(own | {"target.density": DENSITIES[0], "distillation.cache": False}), tmp_path / "alone"
    )
    assert len(scored) == 5
    assert [report.teacher_scores for report in reports] == [alone.teacher_scores] * 2


@pytest.mark.parametrize("change", [{"data.max_length": 4}, {"data.metric": "f1"}, {"teacher": "other"}])
def test_other_scores_are_computed_again(values, swept, tmp_path, change):
    """What the scores depend on is in the name under which they are kept."""
    teacher = swept[0] / "teacher"
    if "teacher" in change:
        change = {"teacher": str(shutil.copytree(teacher, tmp_path / "other"))}
    first = run_data.RunData(recipe.make(values))
    kept = kept_scores(first, first.task.load_model(teacher), tmp_path)
    other = run_data.RunData(recipe.make(values | change))
    model = other.task.load_model(teacher)
    if "teacher" in change:
        model.classifier.bias.data[0] += 10
    again = kept_scores(other, model, tmp_path)
    assert again == scores(model, other.task, other.validation_rows, other.tokenizer)
    assert len(list(tmp_path.glob("scores-*.json"))) == 2
    assert kept_scores(first, first.task.load_model(teacher), tmp_path) == kept


def test_damaged_scores_are_computed_again(values, swept, tmp_path):
    own = run_data.RunData(recipe.make(values))
    teacher = own.task.load_model(swept[0] / "teacher")
    whole = kept_scores(own, teacher, tmp_path)
    (kept,) = tmp_path.glob("scores-*.json")
    kept.write_text(kept.read_text()[:-5])
    assert kept_scores(own, teacher, tmp_path) == whole
    assert (written := json.loads(kept.read_text()))["version"] == 2 and written["scores"] == whole
    assert [one["name"] for one in written["classes"]] == list(own.task.labels)
    assert kept_classes(own, teacher, tmp_path) == [ClassScore(**one) for one in written["classes"]]
    kept.write_text(json.dumps(whole))  # as 0.1.0 wrote them
    assert kept_scores(own, teacher, tmp_path) == whole and "version" not in kept.read_text()
    assert kept_classes(own, teacher, tmp_path) is None
    kept.write_text(json.dumps({"version": 99}))
    with pytest.raises(UserError, match=r"scores-\w+\.json has version 99, .*: update secateur$"):
        kept_scores(own, teacher, tmp_path)


@pytest.mark.parametrize("method", ["magnitude", "cofi"])
def test_each_density_gives_the_result_of_a_run_for_it_alone(values, swept, tmp_path, method):
    """The law of the sweep: branching changes nothing, for the trunk and for the branches alike."""
    own = {"method": method, "teacher": str(swept[0] / "teacher"), "training.epochs": 2, "training.checkpoints": 0}
    folder, wanted = tmp_path / "sweep", recipe.make(values | own)
    sweep(wanted, folder)
    for one in wanted.each()[1:]:
        pipeline.run(one, tmp_path / str(one.target.density))
        assert same(weights(folder / str(one.target.density)), weights(tmp_path / str(one.target.density)))


def test_the_lowest_density_is_an_ordinary_run(values, swept, tmp_path):
    report = pipeline.run(recipe.make(values | {"target.density": DENSITIES[-1]}), tmp_path / "run")
    assert same(weights(swept[0] / str(DENSITIES[-1])), weights(tmp_path / "run"))
    assert report.scores == swept[1][-1].scores


@pytest.mark.parametrize(("stage", "step"), POINTS)
def test_a_killed_sweep_gives_the_same_result(values, swept, copies, tmp_path, stage, step):
    shutil.copytree(copy_of(copies, stage, step), tmp_path / "run")
    reports = sweep(recipe.make(values), tmp_path / "run")
    for density in DENSITIES:
        assert same(weights(swept[0] / str(density)), weights(tmp_path / "run" / str(density)))
    assert [report.scores for report in reports] == [report.scores for report in swept[1]]


def test_a_resumed_run_stops_when_it_reaches_its_density(values, swept, tmp_path):
    """Its last checkpoint may be of the very step at which it stops."""
    one = recipe.make(values | {"training.checkpoints": 100}).each()[1]
    whole = json.loads((swept[0] / str(one.target.density) / "cut_at.json").read_text())["progress"]
    step = round(whole / one.method.end * 18)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(one, tmp_path / "run", [InterruptAt("prune", None)])
    saved = {int(path.name.rpartition("-")[2]) for path in (tmp_path / "run" / "prune").glob("checkpoint-*")}
    assert saved == {step}
    pipeline.run(one, tmp_path / "run")
    assert same(weights(swept[0] / str(one.target.density)), weights(tmp_path / "run"))


def test_a_finished_sweep_returns_its_reports_again(values, swept):
    again = sweep(recipe.make(values), swept[0], [NoTraining()])
    assert [one.to_dict() for one in again] == json.loads(json.dumps([one.to_dict() for one in swept[1]]))


def test_pruned_units_are_recorded_as_they_are_removed(swept):
    folder, reports = swept
    lines = [json.loads(line) for line in (folder / str(DENSITIES[-1]) / "pruned.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["prune"] * len(lines)
    totals = [sum(line["kept"].values()) for line in lines]
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[-1]
    assert set(lines[-1]["kept"]) == {f"{layer}.{kind}" for layer in (0, 1) for kind in ("ffn", "qk", "vo")}
    kept = {f"{row['layer']}.ffn": row["ffn"] for row in reports[-1].structure if "ffn" in row}
    assert all(kept[name].split()[0].startswith(str(lines[-1]["kept"][name])) for name in kept)


def test_the_rows_that_a_sweep_takes_are_known_before(values, swept):
    taken = {}
    for density in DENSITIES:
        for line in map(json.loads, (swept[0] / str(density) / "log.jsonl").read_text().splitlines()):
            taken[density, line["stage"]] = line["rows"]
    trained = sum(rows for (_, stage), rows in taken.items() if stage != "teacher-training")
    assert rows_taken(contexts_of(recipe.make(values), swept[0])[-1]) == pytest.approx(trained, rel=0.05)


def test_log_lines_carry_rows_and_seconds(swept):
    lines = [json.loads(line) for line in (swept[0] / "0.15" / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"teacher-training", "prune", "recover"}
    assert all(line["rows"] == 4 * line["step"] and line["seconds"] >= 0 for line in lines)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target.density": (0.4, 0.4)}, "contains one twice"),
        ({"target.density": (0.4, 1.4)}, r"density 1\.4 is not in \(0, 1\]"),
        ({"target.density": (0.9, 0.1), "target.units": ["head"]}, "out of reach"),
        ({"target.density": 0.2, "target.toward": 0.3}, "must be a density below target.density"),
    ],
)
def test_impossible_densities_are_refused_before_the_folder_is_touched(values, tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        sweep(recipe.make(values | asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Expected(StageWatch):
    def expect(self, stages):
        self.left = [stage.name for stage in stages if not stage.result]


def test_what_is_left_of_a_sweep_is_said_when_its_lowest_density_is_finished(values, swept, tmp_path):
    made = recipe.make(values)
    with pytest.raises(UserError, match=f"the run in {swept[0]} is finished: there is nothing left to do"):
        dry_run(made, swept[0])
    left = shutil.copytree(swept[0], tmp_path / "run")
    (left / "0.6" / "report.json").unlink()
    shutil.rmtree(left / "0.3")
    ahead, watch = dry_run(made, left), Expected()
    assert [stage.name for stage in ahead.stages if not stage.result] == [
        "measure (0.6)",
        "recover (0.3)",
        "measure (0.3)",
    ]
    sweep(made, left, [watch])
    assert watch.left == ["measure (0.6)", "recover (0.3)", "measure (0.3)"]


@pytest.mark.parametrize("begin", [sweep, dry_run])
def test_another_sweep_is_refused_in_the_same_folder(values, swept, begin):
    with pytest.raises(UserError, match=r"another recipe \(it differs in target.density"):
        begin(recipe.make(values | {"target.density": (0.6, 0.15)}), swept[0])
    with pytest.raises(UserError, match=r"another recipe \(it differs in target.density"):
        begin(recipe.make(values), swept[0] / "0.15")


def test_a_run_of_one_density_refuses_several(values, tmp_path):
    several = recipe.make(values)
    for begin in (pipeline.run, pipeline.dry_run):
        with pytest.raises(UserError, match="a run has one density"):
            begin(several, tmp_path / "run")
    with pytest.raises(UserError, match="a run has one density"):
        pipeline.run_context(Context(several, tmp_path / "run", data_of(several)))
    assert not (tmp_path / "run").exists()
