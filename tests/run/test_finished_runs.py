"""Finished runs compared: what is one point, which times are comparable, what is shown, and what is refused."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from made_up_run import PROTOCOL, REPORT

from secateur.report.comparison import OUTSIDE, RUN, TEACHER, ScoredModel, Timing
from secateur.report.comparison_page import to_html
from secateur.report.comparison_text import notes, table, to_dict, to_markdown
from secateur.report.names import told_apart
from secateur.report.recipe_keys import upgrade
from secateur.run.finished_runs import read
from secateur.run.recipe import make
from secateur.run.run_comparison import compare
from secateur.system.errors import UserError

THERE = {**PROTOCOL, "device": "cpu"}
SHAPE = (1, 32)
RECIPE = {
    "model": "m",
    "data": "d",
    "teacher": "t/fine",
    "method": "grain",
    "target.density": 0.05,
    "training.epochs": 1.5,
}


def timed(ms, **protocol):
    return [{**REPORT.latency[0], "latency_ms": ms, "speed_up": 5.0 / ms, "protocol": THERE | protocol}]


def write(folder, *, score=0.87, kept=0.05, seed=0, latency=None, recipe=(), **changes):
    """A run's folder that holds its report alone."""
    report = replace(
        REPORT,
        recipe=upgrade({**RECIPE, "seed": seed, **dict(recipe)}),
        density={"prunable": kept, "model": 0.5},
        latency=timed(2.0) if latency is None else latency,
        **{"scores": {"accuracy": score}, **changes},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
    return folder


def by_name(comparison):
    return {point.name: point for point in comparison.points}


# What is one point


def test_runs_that_differ_in_the_seed_alone_are_one_point(tmp_path):
    scores = (0.86, 0.88, 0.90)
    runs = [write(tmp_path / str(seed), score=score, seed=seed) for seed, score in enumerate(scores)]
    runs.append(write(tmp_path / "other", score=0.80, recipe={"method": "random"}))
    comparison = compare(read(runs))
    names = [point.name for point in comparison.points]
    assert names == ["teacher fine", "grain at density 0.05", "random at density 0.05"]
    seeds = comparison.to_dict()["points"][1]
    assert seeds["n"] == 3 and seeds["score"] == pytest.approx({"mean": 0.88, "lowest": 0.86, "highest": 0.90})
    assert table(comparison)[1][1][:4] == [" 2 grain at density 0.05", "3", "0.8800 (0.8600-0.9000)", "97.8%"]
    assert [entry.place for entry in comparison.points[1].models] == [str(run) for run in runs[:3]]


def test_what_a_run_has_decided_itself_does_not_distinguish_recipes(tmp_path):
    for seed, steps in enumerate((811, 823)):
        length = {"training.epochs": None, "training.steps": steps}
        write(tmp_path / "timed" / str(seed), seed=seed, recipe=length, length={"minutes": 10, "steps": steps})
    for seed, density in enumerate((0.2, 0.3)):
        chosen = {"target.density": density, "measurement.retention": 0.97}
        write(tmp_path / "kept" / str(seed), seed=seed, recipe=chosen, goal={"keep_score": 0.97, "density": density})
    runs = read([tmp_path / kind / str(seed) for kind in ("timed", "kept") for seed in (0, 1)])
    points = {point.name: len(point.models) for point in compare(runs).points if point.origin == RUN}
    assert points == {"grain at density 0.05": 2, "grain at 97% of the score": 2}


def test_nothing_is_kept_of_a_teacher_that_is_no_better_than_a_constant(tmp_path):
    constant = {"teacher_scores": {"accuracy": 0.5}, "baseline": 0.5}
    runs = [write(tmp_path / "a", score=0.5, **constant), write(tmp_path / "b", seed=1, score=0.6, **constant)]
    comparison = compare(read(runs))
    assert [row[3] for row in table(comparison)[1]] == ["-", "-"]
    assert [run.report.retention for run in read(runs)] == [None, None]


def test_names_distinguish_recipes_by_as_few_keys_as_possible(tmp_path):
    changes = [
        {},
        {"training.epochs": 8.0, "method.begin": 0.1},
        {"training.epochs": 8.0, "method.begin": 0.1, "distillation.hidden": None},
    ]
    comparison = compare(read([write(tmp_path / str(n), recipe=change) for n, change in enumerate(changes)]))
    names = [point.name.removeprefix("grain at density 0.05, ") for point in comparison.points if point.origin == RUN]
    assert sorted(names) == [
        "method.begin 0.02, distillation.hidden every 2",
        "method.begin 0.1, distillation.hidden every 2",
        "method.begin 0.1, distillation.hidden none",
    ]


def test_paths_and_measurement_settings_do_not_distinguish_recipes(tmp_path):
    other = {
        "data": "elsewhere/d",
        "measurement.shapes": [[1, 8]],
        "distillation.match": "same",
    }  # "same" is the default of a later key
    comparison = compare(read([write(tmp_path / "a"), write(tmp_path / "b", recipe=other, seed=1)]))
    assert [len(point.models) for point in comparison.points] == [1, 2]


def test_a_named_teacher_is_one_point_and_trained_ones_an_entry_a_run(tmp_path):
    for seed in (0, 1):
        write(tmp_path / "named" / str(seed), seed=seed)
        own = write(tmp_path / "own" / str(seed), seed=seed, recipe={"teacher": None})
        (own / "teacher").mkdir()
    for place, name, count in (("named", "teacher fine", 1), ("own", "teacher", 2)):
        runs = read([tmp_path / place / "0", tmp_path / place / "1"])
        assert [(p.name, len(p.models)) for p in compare(runs).points if p.origin == TEACHER] == [(name, count)]
    assert runs[0].teacher == str(tmp_path / "own" / "0" / "teacher")


def test_the_runs_of_a_sweep_share_its_teacher(tmp_path):
    for density in ("0.4", "0.1"):
        folder = write(tmp_path / density, recipe={"teacher": None, "target.density": float(density)})
        (folder / "recipe.yaml").touch()
    several = make({**RECIPE, "teacher": None, "target.density": (0.4, 0.1)})
    (tmp_path / "recipe.yaml").write_text(several.to_yaml(), encoding="utf-8")
    (tmp_path / "teacher").mkdir()
    runs = read([tmp_path])
    assert [run.folder.name for run in runs] == ["0.1", "0.4"]
    assert {run.teacher for run in runs} == {str(tmp_path / "teacher")}
    assert len(compare(runs).points) == 3


def test_a_folder_of_runs_stands_for_those_of_its_density_sweeps_and_sweeps(tmp_path):
    runs = [write(tmp_path / name) for name in ("alone", "search/trials/0001", "walk/0.1", "walk/0.4")]
    for place in (*runs, tmp_path / "search" / "trials" / "0002", tmp_path / "walk"):
        place.mkdir(exist_ok=True)
        (place / "recipe.yaml").touch()
    (tmp_path / "search" / "sweep.yaml").touch()
    assert [run.folder for run in read([tmp_path])] == runs
    (tmp_path / "walk" / "0.4" / "report.json").unlink()
    with pytest.raises(UserError, match=r"the run in \S*walk/0\.4 is not finished"):
        read([tmp_path])


def test_a_folder_called_teacher_beside_a_run_is_not_its_teacher(tmp_path):
    (tmp_path / "teacher").mkdir()
    named = {"teacher": str(tmp_path / "teacher")}
    runs = read([write(tmp_path / "own", recipe={"teacher": None}), write(tmp_path / "named", recipe=named)])
    assert [run.teacher for run in runs] == ["m", str(tmp_path / "teacher")]
    assert {p.name for p in compare(runs).points if p.origin == TEACHER} == {"teacher m", f"teacher {tmp_path.name}"}


def test_recipes_of_models_in_folders_of_one_name_are_named_by_as_much_of_the_paths_as_differs(tmp_path):
    parts = ("one", "two")
    runs = [write(tmp_path / part, recipe={"model": f"/models/{part}/minilm/best"}) for part in parts]
    names = [point.name for point in compare(read(runs)).points if point.origin == RUN]
    assert sorted(names) == [f"grain at density 0.05, model {part}/minilm/best" for part in ("one", "two")]


def test_other_models_of_equal_names_are_named_by_as_much_of_their_paths_as_differs(tmp_path):
    places = ("/where/ever/a/small", "/where/ever/b/small", "c/model")
    entries = [ScoredModel(place, score=0.8, density=None, parameters=1, bytes=1) for place in places]
    comparison = compare(read([write(tmp_path / "run")]), entries)
    assert [point.name for point in comparison.points if point.origin == OUTSIDE] == ["a/small", "b/small", "c"]
    assert (
        told_apart(["org/a", "/x/y/a", "/x/z/a"]) == ["org/a", "y/a", "z/a"] and told_apart(["/x/a"] * 2) == ["a"] * 2
    )


# Training data and seeds


def rows_of_runs(runs):
    return {point.name: len(point.models) for point in compare(read(runs)).points if point.origin == RUN}


def trained(folder, source, data, seed=0, **changes):
    return write(folder, seed=seed, scored="89ab", trained=data, recipe={"data": source}, **changes)


def test_runs_on_other_training_data_are_rows_of_their_own_named_by_it(tmp_path):
    runs = [trained(tmp_path / f"{part}{seed}", f"/data/{part}", part * 4, seed) for part in "ab" for seed in (0, 1)]
    assert rows_of_runs(runs) == {
        "grain at density 0.05, data.source a": 2,
        "grain at density 0.05, data.source b": 2,
    }
    moved = [trained(tmp_path / f"c{seed}", f"/elsewhere/{seed}", "cccc", seed) for seed in (0, 1)]
    assert rows_of_runs(moved) == {"grain at density 0.05": 2}, "the same rows in two places"
    changed = [
        trained(tmp_path / "d", "/data", "dddd", rows={"train": 300, "validation": 1872}),
        trained(tmp_path / "e", "/data", "eeee", seed=1),
    ]
    assert [*rows_of_runs(changed)] == [
        "grain at density 0.05, training rows 300",
        "grain at density 0.05, training rows 67349",
    ]
    renamed = [trained(tmp_path / "f", "/data", "ffff"), trained(tmp_path / "g", "/data", "0000", seed=1)]
    assert {*rows_of_runs(renamed)} == {f"grain at density 0.05, training data {data}" for data in ("ffff", "0000")}


def test_rows_that_the_seed_samples_are_those_of_one_data_set(tmp_path):
    few = {"data.rows": 300}
    for folder, recorded in (("now", {"trained": "aaaa"}), ("before", {})):
        for seed in (0, 1):
            write(tmp_path / folder / str(seed), seed=seed, scored="89ab", data=f"{seed}{seed}", recipe=few, **recorded)
        assert rows_of_runs([tmp_path / folder / str(seed) for seed in (0, 1)]) == {"grain at density 0.05": 2}
    write(tmp_path / "whole", scored="89ab", data="2222", trained="aaaa")
    names = rows_of_runs([tmp_path / "now" / "0", tmp_path / "now" / "1", tmp_path / "whole"])
    assert names == {"grain at density 0.05, data.rows 300": 2, "grain at density 0.05, data.rows none": 1}


def test_two_runs_of_one_seed_are_no_seeds_of_a_recipe(tmp_path):
    runs = [write(tmp_path / name, score=score) for name, score in (("a", 0.80), ("b", 0.90))]
    names = rows_of_runs(runs)
    assert names == {"grain at density 0.05, folder a": 1, "grain at density 0.05, folder b": 1}
    sets = [write(tmp_path / name / str(seed), seed=seed) for name in ("old", "new") for seed in (0, 1)]
    names = rows_of_runs(sets)
    assert names == {"grain at density 0.05, folder old": 2, "grain at density 0.05, folder new": 2}


def test_teachers_that_were_trained_on_other_data_are_points_of_their_own(tmp_path):
    for part in "ab":
        for seed in (0, 1):
            place = tmp_path / f"{part}{seed}"
            report = {"scored": "89ab", "trained": part * 4, "recipe": {"data": f"/data/{part}", "teacher": None}}
            (write(place, seed=seed, **report) / "teacher").mkdir()
    comparison = compare(read([tmp_path / f"{part}{seed}" for part in "ab" for seed in (0, 1)]))
    teachers = {point.name: len(point.models) for point in comparison.points if point.origin == TEACHER}
    assert teachers == {"teacher, data.source a": 2, "teacher, data.source b": 2}


# What is shown


def test_the_table_marks_the_pareto_front_of_each_criterion(tmp_path):
    runs = [write(tmp_path / "a", score=0.89, kept=0.2), write(tmp_path / "b", score=0.88, kept=0.3, seed=1)]
    for run, method in zip(runs, ("grain", "random"), strict=True):
        report = json.loads((run / "report.json").read_text())
        report["recipe"]["method"] = method
        (run / "report.json").write_text(json.dumps(report))
    head, rows = table(compare(read(runs)))
    assert head == ["", "runs", "accuracy", "retention", "density", "weights, MB", "1 x 32 speed-up"]
    assert [row[4] for row in rows] == ["1.0000*", "0.3000", "0.2000*"]


# What may be compared


def test_speed_ups_come_from_the_reports(tmp_path):
    comparison = compare(
        read([write(tmp_path / "a", latency=timed(2.0)), write(tmp_path / "b", seed=1, latency=timed(4.0))])
    )
    criterion = comparison.criteria[-1]
    assert (criterion.name, criterion.less) == ("1 x 32 speed-up", False)
    assert [criterion.value(point) for point in comparison.points] == pytest.approx([1.0, (2.5 + 1.25) / 2])
    assert any("at the end of each run" in note and "threads 2" in note for note in notes(comparison))


@pytest.mark.parametrize("key", ["threads", "dtype", "runtime", "device", "machine"])
def test_speed_ups_under_different_protocols_are_left_out(tmp_path, key):
    runs = [write(tmp_path / "a"), write(tmp_path / "b", seed=1, latency=timed(2.0, **{key: "another"}))]
    comparison = compare(read(runs))
    assert [criterion.name for criterion in comparison.criteria] == ["density", "weights, MB"]
    assert any(f"1 x 32 is left out because the runs differ in {key}: --measure" in note for note in notes(comparison))


def test_runs_that_measured_nothing_are_counted(tmp_path):
    runs = [write(tmp_path / "a"), write(tmp_path / "b", latency=[], recipe={"method": "random"})]
    comparison = compare(read(runs))
    assert [row[-1] for row in table(comparison)[1]] == ["1.00*", "2.50*", "-"]
    assert "1 of 2 runs did not measure 1 x 32" in notes(comparison)
    assert any("--measure" in note for note in notes(compare(read(runs[1:]))))


def test_new_measurements_replace_those_of_the_reports(tmp_path):
    runs = read([write(tmp_path / "a")])
    times = {"t/fine": 8.0, str(tmp_path / "a"): 2.0, "outside": 4.0}
    measured = {place: {(8, 128): Timing(ms, 8.0 / ms, THERE)} for place, ms in times.items()}
    outside = ScoredModel("outside", score=0.85, density=None, parameters=3, bytes=12_000_000)
    comparison = compare(runs, [outside], measured)
    assert [criterion.name for criterion in comparison.criteria] == ["density", "weights, MB", "8 x 128, ms"]
    assert [point.origin for point in comparison.points] == [TEACHER, OUTSIDE, RUN]
    assert [row[4:] for row in table(comparison)[1]] == [
        ["1.0000*", "90.9*", "8.00*"], ["-", "12.0*", "4.00"], ["0.0500*", "48.0*", "2.00*"],
    ]  # fmt: skip
    assert any("all 3 models now, in turn" in note for note in notes(comparison))
    untimed = {place: times for place, times in measured.items() if place != "outside"}
    assert any("all 2 models now, in turn" in note for note in notes(compare(runs, [outside], untimed)))


def test_runs_whose_score_is_an_error_have_no_retention_and_their_front_is_of_the_lowest(tmp_path):
    worse = {"score": 0.89, "kept": 0.2, "recipe": {"method": "random"}}
    second = {"score": 0.88, "recipe": {"method": "michel"}}
    runs = [
        write(tmp_path / name, greater_is_better=False, **values)
        for name, values in {"a": second, "b": worse, "c": {}}.items()
    ]
    comparison = compare(read(runs))
    assert [point.score for point in comparison.points if point.origin == RUN] == [0.89, 0.87, 0.88]
    assert not comparison.greater and [model.retention for p in comparison.points for model in p.models] == [None] * 4
    assert [point.name for point in comparison.front(comparison.criteria[0])] == ["grain at density 0.05"]


# Told


def test_the_page_has_a_picture_for_each_criterion_and_escapes_names(tmp_path, drawn):
    comparison = compare(read([write(tmp_path / "<b>&", seed=n, recipe={"teacher": "<i>"}) for n in (0,)]))
    text = to_html(comparison)
    assert text.count("<svg") == len(comparison.criteria) == 3
    assert text.count("<script") == 1 and "<i>" not in text and "<b>" not in text
    for part in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part[: part.index("</svg>") + 6])


def test_json_and_markdown_hold_every_point(tmp_path):
    comparison = compare(read([write(tmp_path / "a"), write(tmp_path / "b", seed=1)]))
    values = json.loads(json.dumps(to_dict(comparison)))
    assert values["points"][1]["entries"][0]["times"] == [
        {"batch": 1, "tokens": 32, "latency_ms": 2.0, "speed_up": 2.5}
    ]  # fmt: skip
    lines = to_markdown(comparison).splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 + len(comparison.points)
    assert lines[0] == "# 2 models by accuracy"


# Refused


def test_runs_with_other_training_rows_are_compared_if_they_were_scored_on_the_same(tmp_path):
    runs = [write(tmp_path / "a", scored="89ab"), write(tmp_path / "b", seed=1, scored="89ab", data="4567")]
    comparison = compare(read(runs))
    assert [len(point.models) for point in comparison.points] == [1, 1, 1] and comparison.data == "89ab"
    with pytest.raises(UserError, match=r"\(89ab\) and .*\(cdef\): compare runs of one"):
        read([runs[0], write(tmp_path / "c", scored="cdef")])
    with pytest.raises(UserError, match="compare runs of one"):
        read([runs[0], write(tmp_path / "older", data="4567")])


def test_runs_scored_on_different_data_or_metrics_are_refused(tmp_path):
    write(tmp_path / "a")
    for name, change in {"data": {"data": "4567"}, "rows": {"rows": {"validation": 9}}}.items():
        with pytest.raises(UserError, match=f"a by accuracy on 1,872 .*{name} by accuracy .*: compare runs of one"):
            read([tmp_path / "a", write(tmp_path / name, **change)])
    other = write(tmp_path / "f1", metric="f1", scores={"f1": 0.7})
    with pytest.raises(UserError, match=r"by accuracy .* by f1 on"):
        read([tmp_path / "a", other])


def test_a_folder_without_a_finished_run_is_named(tmp_path):
    run = write(tmp_path / "runs" / "done")
    (run / "recipe.yaml").touch()
    with pytest.raises(UserError, match=r"nothing is no run of secateur: give"):
        read([tmp_path / "nothing"])
    unfinished = tmp_path / "runs" / "half"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").touch()
    for place in (unfinished, tmp_path / "runs"):
        with pytest.raises(UserError, match=r"the run in \S*half is not finished: repeat its command"):
            read([place])
    with pytest.raises(UserError, match=r"done twice"):
        read([run, run])
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])


DAMAGES = {
    "no score": {"scores": {}},
    "scores are a list": {"scores": [0.9]},
    "a score is text": {"scores": {"accuracy": "high"}},
    "no density": {"density": {}},
    "no sizes": {"weight_bytes": 3},
    "parameters are text": {"parameters": {"teacher": "many", "model": None}},
    "no rows": {"rows": {}},
    "latency is a number": {"latency": 3.0},
    "no protocol": {"latency": [{"latency_ms": 2.0, "speed_up": 2.0}]},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_report_is_named_in_one_sentence(tmp_path, name):
    folder = write(tmp_path / "run")
    report = json.loads((folder / "report.json").read_text()) | DAMAGES[name]
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"run/report\.json is damaged \(.*leave it out$") as refusal:
        read([folder])
    assert "\n" not in str(refusal.value)
