"""The verdict on a run: whether its model keeps enough of its teacher's score, and what to try if it does not."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_run import REPORT, TARGET

from secateur.report.other_densities import predict, walk_of
from secateur.report.report import retention
from secateur.report.report_text import to_markdown
from secateur.report.run_log import RunLog
from secateur.report.run_page import to_html
from secateur.report.size_text import outcome
from secateur.report.verdict import result_line, verdict

KNOWN = {"target": TARGET, "unpruned": {"units": 72, "bytes": 90_048_000}}
AMOUNTS = dict.fromkeys(("density", "size", "latency", "speedup"))


def judged(score, teacher=0.9, baseline=0.5, error=0.0112, target=None, known=None, **recipe):
    """The verdict on the made-up run with a score; `known` are other fields of its report."""
    values = {**REPORT.recipe, **recipe} | ({"target": target} if target else {})
    report = replace(
        replace(REPORT, **(known or {})),
        scores={"accuracy": score},
        teacher_scores={"accuracy": teacher},
        baseline=baseline,
        standard_error=error,
        recipe=values,
    )
    return verdict(report)


def test_a_model_that_keeps_enough_worked():
    one = judged(0.873)
    assert one.worked and str(one) == (
        "It worked: the model keeps 97.0% of the teacher's accuracy (0.8730 ± 0.0112 of 0.9000; a constant prediction "
        "has 0.5000)."
    )
    assert str(judged(0.873, baseline=None, error=None)).endswith("(0.8730 of 0.9000).")


def test_a_model_that_is_better_than_its_teacher_by_more_than_its_error_tells_of_the_teacher():
    assert judged(0.92).worked and "a teacher that is trained for longer may be better" in judged(0.92).advice
    assert not judged(0.91).advice and judged(0.92, error=None).advice


def test_a_model_that_keeps_too_little_fell_short():
    one = judged(0.81, training={"epochs": 6.0})
    assert (
        not one.worked and one.text.startswith("It fell short: the model keeps 90.0%") and "less than 95%" in one.text
    )
    assert one.advice == "Try more steps (--epochs 12), a higher density (--density 0.1), or another method."
    assert judged(0.81, measurement={"retention": 0.9}).worked


def test_a_model_that_is_no_better_than_a_constant_did_not_work():
    """0.86 of 0.9 would be kept in name, and is what saying one class always gives."""
    one = judged(0.86, baseline=0.86)
    assert not one.worked and one.text.startswith("It did not work: the model is no better than a constant prediction")


def test_a_teacher_that_is_no_better_than_a_constant_has_nothing_to_keep():
    one = judged(0.26, teacher=0.27, baseline=0.276)
    assert not one.worked and one.text.startswith("There was nothing to keep: the teacher is no better")
    assert one.advice == "Give more rows or a better teacher."


@pytest.mark.parametrize(
    ("training", "option"),
    [
        ({"teacher_steps": 2000, "teacher_epochs": None}, "--set training.teacher_steps=4000"),
        ({"teacher_steps": 2000, "teacher_epochs": 1.5}, "--set training.teacher_epochs=3"),
    ],
)
def test_a_teacher_that_was_trained_in_the_run_is_advised_to_be_trained_for_longer(training, option):
    known = {"teacher": {"steps": 930, "learning_rate": 1e-4}}
    one = judged(0.26, teacher=0.27, baseline=0.276, known=known, training=training)
    assert one.advice == f"Give more rows, or train the teacher for longer ({option})."
    assert f"trained for longer ({option}) may be better" in judged(0.95, known=known, training=training).advice


# Chance


def test_what_is_no_better_than_a_constant_by_two_standard_errors_did_not_work():
    one = judged(0.53, teacher=0.54, baseline=0.52, error=0.0499)
    assert not one.worked and one.text == (
        "There was nothing to keep: the teacher is no better than a constant prediction by two standard errors "
        "(accuracy 0.5300 ± 0.0499 of 0.5400; a constant prediction has 0.5200)."
    )
    lost = judged(0.53, teacher=0.9, baseline=0.52, error=0.0499)
    assert lost.text.startswith("It did not work: the model is no better than a constant prediction by two standard")
    assert judged_error(0.95, teacher=0.99, error=0.03).text.startswith("There was nothing to keep: the teacher is no")
    assert "0 by two standard errors" in judged(0.05, teacher=0.05, baseline=None, error=0.06).text


def test_nothing_is_kept_of_a_teacher_that_is_better_by_chance():
    report = replace(REPORT, teacher_scores={"accuracy": 0.54}, scores={"accuracy": 0.53}, baseline=0.52)
    assert report.retention == pytest.approx(0.53 / 0.54)
    assert replace(report, standard_error=0.0499).retention is None
    assert retention(0.53, 0.54, 0.52, True, 0.0099) and retention(0.53, 0.54, 0.52, True, 0.011) is None


def worked_by_chance(scores, count=2000):
    """The part of runs that worked, of a teacher and a model by whose guesses nothing can be told."""
    random = np.random.default_rng(0)
    return sum(judged(**scores(random)).worked for _ in range(count)) / count


def guesses(random, rows=100, agreeing=0.9):
    """Accuracies on random labels of two classes, where the model mostly does as its teacher."""
    labels, teacher, other = random.integers(0, 2, (3, rows))
    score, of_teacher = (np.where(random.random(rows) < agreeing, teacher, other) == labels).mean(), teacher == labels
    error = (score * (1 - score) / rows) ** 0.5
    constant = max(labels.mean(), 1 - labels.mean())
    return {"score": score, "teacher": of_teacher.mean(), "baseline": constant, "error": error}


def noise(random, rows=100):
    """Correlations of numbers with others that have nothing to do with them."""
    labels, teacher, other = random.standard_normal((3, rows))
    score, of_teacher = (np.corrcoef(labels, one)[0, 1] for one in (teacher + 0.3 * other, teacher))
    return {"score": score, "teacher": of_teacher, "baseline": 0.0, "error": ((1 - score**2) / rows) ** 0.5}


@pytest.mark.parametrize("scores", [guesses, noise])
def test_of_data_by_which_nothing_can_be_learned_almost_no_run_is_said_to_have_worked(scores):
    assert worked_by_chance(scores) <= 0.025


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ({"density": 0.5}, "a higher density (--density 0.75)"),
        ({"density": 0.8}, "a higher density (--density 0.9)"),
        ({"density": 0.44}, "a higher density (--density 0.72)"),
        ({**AMOUNTS, "size": 5_000_000}, "a larger file (--size 10MB)"),
        ({**AMOUNTS, "size": 55_000_000}, "a larger file (--size 72.52MB)"),
        ({**AMOUNTS, "latency": 5.0}, "more time (--latency 10ms)"),
        ({**AMOUNTS, "latency": 12.0}, "more time (--latency 15.09ms)"),
        ({"density": None, "latency": None, "speedup": 10.0}, "a smaller speed-up (--speedup 5)"),
        ({"density": None, "latency": None, "speedup": 1.5}, "a smaller speed-up (--speedup 1.1)"),
        ({"density": None, "latency": None, "speedup": None, "keep": 12}, "more units (--keep 24)"),
        ({**AMOUNTS, "keep": 48}, "more units (--keep 60)"),
    ],
)
def test_the_advice_is_of_the_kind_of_the_target(target, advice):
    assert advice in judged(0.6, target=target, known=KNOWN).advice


@pytest.mark.parametrize(
    "target",
    [
        {"density": 1.0},
        {"density": 0.99},
        {**AMOUNTS, "speedup": 1.1},
        {**AMOUNTS, "latency": 18.5},
        {**AMOUNTS, "size": 90_048_000},
        {**AMOUNTS, "keep": 72},
        {**AMOUNTS, "keep": 71},
    ],
)
def test_what_keeps_all_there_is_is_not_advised(target):
    advice = judged(0.6, target=target, known=KNOWN, training={"epochs": 6.0}).advice
    assert advice == "Try more steps (--epochs 12), or another method."


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ({**AMOUNTS, "latency": 5.0}, "Try more steps, more time, or another method."),
        ({**AMOUNTS, "size": 5_000_000}, "Try more steps, a larger file, or another method."),
        ({**AMOUNTS, "keep": 12}, "Try more steps, more units, or another method."),
    ],
)
def test_no_number_is_advised_where_an_older_report_does_not_say_how_much_there_is(target, advice):
    assert judged(0.6, target=target).advice == advice


def test_no_number_is_advised_that_the_layers_asked_for_may_not_have():
    target = {"density": 0.3, "layers": 6}
    assert judged(0.6, target=target).advice == "Try more steps, a higher density, or another method."
    assert "(--density 0.6)" in judged(0.6, target=target, known={"depth": {"layers": 6}}).advice


def test_a_density_is_advised_with_the_score_to_expect_there():
    points = [{"density": at, "score": 0.9 - 0.03 / at, "standard_error": 0.01} for at in (0.4, 0.2, 0.1, 0.05)]
    ramp = {"points": points, "teacher": 0.92, "reach": (0.01, 1.0), "rows": 200, "metric": "accuracy"}
    report = replace(REPORT, ramp=ramp, scores={"accuracy": 0.8}, baseline=0.5)
    (expected,) = predict(walk_of(report), [0.1])
    assert 0.8 < expected.score < 0.9
    assert f"a higher density (--density 0.1, expected accuracy {expected.score:.3f})," in verdict(report).advice
    chosen = replace(report, goal={"keep_score": 0.97, "density": 0.05})
    said = f"(--density 0.1 in place of --keep-score, expected accuracy {expected.score:.3f})"
    assert said in verdict(chosen).advice
    other = replace(report, recipe=report.recipe | {"target": {**AMOUNTS, "keep": 12}}, unpruned={"units": 72})
    assert "more units (--keep 24)," in verdict(other).advice


def test_a_longer_run_is_advised_by_the_option_that_the_run_was_given():
    """A run of a number of minutes has the steps that it decided on in its recipe."""
    known = {"length": {"minutes": 7.5, "steps": 1200}}
    assert "more steps (--minutes 15)" in judged(0.6, known=known, training={"steps": 1200}).advice


@pytest.mark.parametrize(
    ("score", "words"), [(0.873, "It worked: "), (0.81, "It fell short: "), (0.5, "It did not work: ")]
)
def test_what_came_out_begins_with_whether_it_worked(score, words):
    report = replace(REPORT, scores={"accuracy": score}, baseline=0.5)
    assert result_line(report) == f"{words}{outcome(report)}"
    assert to_markdown(report).splitlines()[0] == f"# {words}{outcome(report)}"
    assert to_markdown(report).splitlines()[4].startswith(words)
    assert f"<h1>{words}" in to_html(report, RunLog((), None, None, 0))


# A score of which less is better


def judged_error(score, teacher=0.3, baseline=1.0, error=0.01):
    scored = {"scores": {"mae": score}, "teacher_scores": {"mae": teacher}, "baseline": baseline}
    report = replace(REPORT, metric="mae", greater_is_better=False, standard_error=error, **scored)
    assert report.retention is None
    return verdict(report)


def test_of_an_error_a_model_that_is_no_worse_than_its_teacher_worked():
    one = judged_error(0.309)
    assert one.worked and str(one) == (
        "It worked: the model's mae is no worse than the teacher's, within its standard error (0.3090 ± 0.0100, the "
        "teacher has 0.3000; a constant prediction has 1.0000)."
    )
    assert "a teacher that is trained for longer" in judged_error(0.28).advice and not judged_error(0.295).advice


def test_of_an_error_a_model_that_is_worse_than_its_teacher_fell_short():
    one = judged_error(0.9)
    assert not one.worked and one.text.startswith("It fell short: the model's mae is worse than the teacher's by more")
    assert not judged_error(0.301, error=None).worked and judged_error(0.3, error=None).worked


def test_of_an_error_the_constant_is_above():
    assert judged_error(1.0).text.startswith("It did not work: the model is no better than a constant prediction (mae")
    assert judged_error(0.9, teacher=1.1).text.startswith("There was nothing to keep: the teacher is no better than a")
    assert judged_error(0.3, baseline=None).worked, "nothing is known of a constant"


def test_a_large_number_of_steps_is_advised_as_an_option_takes_it():
    assert "more steps (--steps 1200000)" in judged(0.6, training={"steps": 600_000}).advice
    assert "more steps (--epochs 0.6)" in judged(0.6, training={"epochs": 0.3}).advice
