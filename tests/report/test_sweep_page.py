"""The results of a sweep: which trials are the best, and what the table, the notes and the page say."""

import re
from dataclasses import replace
from xml.etree import ElementTree

from page_reader import Reader

from secateur.report.sweep import FAILED, FINISHED, RUNNING, STOPPED, SweepResult, SweepTrial
from secateur.report.sweep_page import to_html
from secateur.report.sweep_text import command, notes, table

TRIALS = (
    SweepTrial(
        0, FINISHED, {"target.density": 0.1, "method.name": "grain"}, (0.90, 3.0), {"score": 0.88, "teacher": 0.95}
    ),
    SweepTrial(1, FINISHED, {"target.density": 0.3, "method.name": "grain"}, (0.94, 2.0), {"score": 0.93}),
    SweepTrial(2, FINISHED, {"target.density": 0.3, "method.name": "<b>"}, (0.89, 2.5), {"score": 0.90}),
    SweepTrial(3, STOPPED, {"target.density": 0.2, "method.name": "grain"}, why="score 0.2 after 50% of the recovery"),
    SweepTrial(4, FAILED, {"target.density": 0.2, "method.name": "grain"}, why="the disk is full"),
    SweepTrial(5, RUNNING, {}),
    SweepTrial(6, FINISHED, {"target.density": 0.1, "method.name": "grain"}, (0.90, 3.0), {"score": 0.88}, same_as=0),
)
RESULT = SweepResult(
    name="mine",
    objectives={"score": False, "speedup": False},
    metric="accuracy",
    subject="m on d",
    judged="200 training rows held out of all training",
    scored="421 validation rows",
    asked=8,
    sampler="tpe",
    trials=TRIALS,
    shape="8 x 128",
    teacher=0.95,
    importance={"score": {"target.density": 0.75, "method.name": 0.25}},
)


def test_the_best_are_those_that_no_other_beats_in_everything():
    assert [trial.number for trial in RESULT.best] == [1, 0], "the best score first; of equal ones the first"
    smaller = replace(RESULT, objectives={"score": False, "mb": True})
    assert [trial.number for trial in smaller.best] == [1]
    alone = replace(
        RESULT,
        objectives={"score": False},
        trials=tuple(replace(trial, values=trial.values and trial.values[:1]) for trial in TRIALS),
    )
    assert [trial.number for trial in alone.best] == [1]
    assert replace(RESULT, trials=TRIALS[3:6]).best == []


def test_a_grid_of_which_a_part_is_asked_for_says_how_many_combinations_it_has():
    counts = "4 finished, 1 stopped, 1 failed, 1 unfinished"
    assert f"asked for 8 trials: {counts}" in notes(RESULT)
    assert f"asked for 8 of the 24 combinations of the grid: {counts}" in notes(replace(RESULT, combinations=24))
    assert f"asked for 8 trials: {counts}" in notes(replace(RESULT, combinations=8))


def test_the_table_has_every_trial_the_best_first():
    head, rows = table(RESULT)
    scores = "accuracy, held out", "speed-up, 8 x 128", "accuracy, 421 validation rows"
    assert head == ["trial", *scores, "density", "method"]
    assert [row[0] for row in rows] == ["1*", "0*", "2", "3 stopped", "4 failed", "5 running", "6"]
    assert rows[0][1:] == ["0.9400", "2.00", "0.9300", "0.3", "grain"]
    assert rows[5][1:] == ["-", "-", "-", "-", "-"]
    _, single = table(replace(RESULT, judged=RESULT.scored))
    assert len(single[0]) == len(head) - 1, "one score, where the rows are the same"


def test_keys_with_one_last_part_are_told_apart():
    """Two columns of one name say nothing, and two bars of one name lie on each other."""
    rates = {"training.learning_rate": 3e-5, "method.options.learning_rate": 0.1, "method.name": "cofi"}
    result = replace(RESULT, trials=(replace(TRIALS[0], point=rates),), importance={"score": dict.fromkeys(rates, 0.3)})
    names = ["training.learning_rate", "method.options.learning_rate", "method"]
    assert table(result)[0][-3:] == names
    page = Reader(to_html(result))
    assert all(page.text.count(name) >= 3 for name in names[:2]), "both tables, and the picture"
    picture = next(svg for svg in re.findall(r"<svg.*?</svg>", to_html(result), re.DOTALL) if "depends on" in svg)
    bars = re.findall(r'd="M [\d.]+ ([\d.]+)[^"]*" clip-path', picture)
    assert len(bars) == len({*bars}) == 3


def test_the_notes_say_how_trials_were_judged_and_why_some_ended():
    text = "\n".join(notes(RESULT))
    assert "chosen by accuracy on 200 training rows held out of all training; the 421 validation rows are only" in text
    assert "4 finished, 1 stopped, 1 failed, 1 unfinished" in text and "trial 4 failed: the disk is full" in text
    assert "not run again: 6 as 0" in text
    assert "which flatters the best" in "\n".join(notes(replace(RESULT, judged=RESULT.scored)))


def test_the_page_shows_the_front_the_importance_and_how_to_repeat():
    page = to_html(RESULT)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = [ElementTree.fromstring(svg).find("{*}title").text for svg in pictures]
    assert titles == ["accuracy, held out against speed-up, 8 x 128", "What accuracy, held out depends on"]
    assert "On the Pareto front: trial 1, trial 0." in page
    assert command(TRIALS[6], "a/b").split()[3] == "a/b/trials/0000/recipe.yaml", (
        "of a repeated trial the run is the first one"
    )
    assert command(TRIALS[1], "my sweep").endswith(" --output 'my sweep/best-0001'")
    assert command(TRIALS[1]) in Reader(page).text
    held_out = "To repeat them with the rows that were held out among the training rows, where the sweep"
    same = to_html(replace(RESULT, judged=RESULT.scored))
    assert held_out in page and held_out not in same and "To repeat them, where the sweep" in same
    test = replace(RESULT, scored="421 test rows")
    assert "accuracy, 421 test rows" in to_html(test) and "validation" not in to_html(test)
    assert "<b>" not in page
    three = replace(
        RESULT,
        objectives={"score": False, "speedup": False, "mb": True},
        importance={},
        trials=tuple(replace(trial, values=trial.values and (*trial.values, 5.0)) for trial in TRIALS),
    )
    assert to_html(three).count("<svg") == 3, "each pair of objectives"


def test_a_page_of_one_objective_shows_the_best_so_far_and_one_without_trials_its_table():
    alone = replace(
        RESULT,
        objectives={"score": False},
        importance={},
        trials=tuple(replace(trial, values=trial.values and trial.values[:1]) for trial in TRIALS),
    )
    assert "Best: 0.9400." in to_html(alone)
    assert "<svg" not in to_html(replace(RESULT, trials=(), importance={}))
