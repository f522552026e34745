"""The advice of a run with baselines: a simpler thing is named where it is as good, and only there."""

from dataclasses import replace

import pytest
from made_up_run import REPORT

from secateur.report import baselines
from secateur.report.report_text import to_markdown
from secateur.report.run_log import RunLog
from secateur.report.run_page import to_html
from secateur.report.verdict import verdict

PRUNED_MS, PRUNED_BYTES = 2.0, 48_000_000  # of REPORT, whose score is 0.873
ERROR = 0.01


def times(small, large=None):
    """At 1 x 32, and at 8 x 128; the teacher takes 5 ms and 50 ms."""
    large = 10 * small if large is None else large
    shapes = (1, 32, small, 5.0), (8, 128, large, 50.0)
    return [{"batch": b, "tokens": t, "latency_ms": ms, "speed_up": dense / ms} for b, t, ms, dense in shapes]


def row(name, score, ms, size, **own):
    what = {"first-layers": "the first 2 of 6 layers, trained alike", "tfidf": "TF-IDF with logistic regression"}
    made = {"name": name, "what": what.get(name, name), "score": score, "retention": score / 0.9, "bytes": size}
    trained = name.endswith("layers")
    rest = {"runtime": "pytorch", "trained": trained, "pruned": False, "latency": [] if ms is None else times(ms)}
    return made | rest | own


def report(*rows, error=ERROR, left_out=None, **recipe):
    record = {"names": [], "rows": list(rows), "left_out": left_out or {}, "protocol": None}
    record |= {"teacher": times(5.0), "pruned": times(PRUNED_MS)}
    return replace(REPORT, baselines=record, standard_error=error, recipe={**REPORT.recipe, **recipe})


def onnx(dtype, score, ms, size=PRUNED_BYTES):
    return row(f"pruned-{dtype}", score, ms, size, pruned=True, runtime="onnxruntime")


def test_layers_that_are_as_good_at_the_same_latency_are_named_as_simpler():
    found = report(row("first-layers", 0.884, 1.9, 47_000_000))
    assert baselines.advice(found) == (
        "As good and simpler: the first 2 of 6 layers, trained alike (accuracy 0.8840, 19.00 ms, 47.0 MB; "
        "the pruned model 0.8730 ± 0.0100, 20.00 ms, 48.0 MB): take that."
    )
    assert str(verdict(found)).endswith("take that.") and verdict(found).to_dict()["simpler"].startswith("As good")
    assert baselines.advice(found) in to_markdown(found)


def test_forwards_say_nothing_of_a_run_for_a_time_of_generation():
    of_generation = {"target": {"protocol": {"part": "generation, greedy"}}}
    fast, small = row("first-layers", 0.884, 0.1, 50_000_000), row("spread-layers", 0.884, 0.1, 47_000_000)
    found = replace(report(fast), **of_generation)
    assert baselines.advice(found) == "The pruned model is ahead of its baselines: none has its score at its size."
    assert baselines.table(found)[1][1][-2] == "1.00"
    assert baselines.advice(replace(report(small), **of_generation)) == (
        "As good and simpler: spread-layers (accuracy 0.8840, 47.0 MB; the pruned model 0.8730 ± 0.0100, 48.0 MB): "
        "it is no larger."
    )


@pytest.mark.parametrize(
    ("score", "ms", "size", "end"),
    [
        (0.873, 2.0, PRUNED_BYTES, "take that."),
        (0.8631, 2.0, PRUNED_BYTES, "take that."),  # within the standard error
        (0.8629, 1.0, 1_000_000, None),  # not within it
        (0.9, 2.09, PRUNED_BYTES, "take that."),  # the noise of a latency
        (0.9, 2.11, PRUNED_BYTES, "it is no larger, but slower."),
        (0.9, 2.0, PRUNED_BYTES + 1, "it is no slower, but larger."),
        (0.9, 2.11, PRUNED_BYTES + 1, None),
        (0.9, None, PRUNED_BYTES, "it is no larger."),
        (0.9, None, PRUNED_BYTES + 1, None),
    ],
)
def test_a_baseline_is_as_good_within_the_error_of_the_score_at_no_more_latency_or_bytes(score, ms, size, end):
    advice = baselines.advice(report(row("first-layers", score, ms, size)))
    assert advice == baselines.AHEAD if end is None else advice.endswith(end)


def test_the_latency_is_that_of_the_largest_shape():
    slow_where_small = row("first-layers", 0.9, 2.0, PRUNED_BYTES, latency=times(9.0, 20.0))
    slow_where_large = row("first-layers", 0.9, 2.0, PRUNED_BYTES, latency=times(1.0, 30.0))
    assert baselines.advice(report(slow_where_small)).endswith("take that.")
    assert baselines.advice(report(slow_where_large)).endswith("but slower.")


def test_what_is_no_better_than_a_constant_prediction_is_never_named():
    found = report(row("tfidf", 0.88, 1.0, 1))
    assert baselines.advice(replace(found, baseline=0.859)).endswith("take that.")
    assert baselines.advice(replace(found, baseline=0.861)) == baselines.AHEAD


def test_without_an_error_the_score_itself_counts():
    assert baselines.advice(report(row("first-layers", 0.8729, 1.0, 1), error=None)) == baselines.AHEAD
    assert baselines.advice(report(row("first-layers", 0.873, 1.0, 1), error=None)).endswith("take that.")


def test_a_file_of_another_runtime_is_compared_with_the_pruned_model_in_that_runtime_in_every_dtype():
    """Int8 in ONNX Runtime is faster than the pruned model in PyTorch, which says nothing of pruning."""
    int8 = row("int8", 0.9, 1.5, 23_000_000, runtime="onnxruntime")
    assert baselines.advice(report(int8)).endswith("take that."), "it was not measured there"
    faster = onnx("fp32", 0.873, 1.0, 10_000_000)
    assert baselines.advice(report(int8, faster)) == baselines.AHEAD
    slower, wrong = onnx("fp32", 0.873, 1.6), onnx("int8", 0.5, 1.6)
    assert baselines.advice(report(int8, slower, wrong)).endswith("take that.")
    better = onnx("int8", 0.95, 1.6)
    assert baselines.advice(report(int8, slower, better)) == baselines.AHEAD


def test_of_several_the_one_is_named_that_costs_no_more_then_one_without_training_then_the_better():
    first, spread = row("first-layers", 0.88, 1.9, 47_000_000), row("spread-layers", 0.89, 1.9, 47_000_000)
    words, slow_words = row("tfidf", 0.87, 0.1, 1_000_000), row("tfidf", 0.87, 9.0, 1_000_000)
    assert "spread-layers (" in baselines.advice(report(first, spread))
    assert "TF-IDF" in baselines.advice(report(first, spread, words))
    assert "spread-layers (" in baselines.advice(report(slow_words, first, spread))


def test_where_less_is_better_a_lower_score_is_as_good():
    low, high = (replace(report(row("first-layers", score, 1.9, 1)), greater_is_better=False) for score in (0.5, 0.9))
    assert baselines.advice(low).endswith("take that.") and baselines.advice(high) == baselines.AHEAD


def test_a_run_without_baselines_has_no_advice_and_no_section():
    assert verdict(REPORT).simpler == "" and baselines.HEADING not in to_markdown(REPORT)
    nothing = report(left_out={"int8": "onnx is not installed"})
    assert baselines.advice(nothing) == "" and "the baseline int8 is left out: onnx is not" in to_markdown(nothing)


def test_the_table_has_the_pruned_model_first_and_every_number():
    found = report(row("tfidf", 0.8, None, 1_000_000), onnx("fp32", 0.873, 1.0), row("first-layers", 0.884, 1.9, 47e6))
    head, rows = baselines.table(found)
    assert head == ["", "accuracy", "retention", "weights, MB", "1 x 32, ms", "speed-up", "8 x 128, ms", "speed-up"]
    assert rows == [
        ["the pruned model", "0.8730", "97.0%", "48.0", "2.00", "2.5x", "20.00", "2.5x"],
        ["pruned-fp32", "0.8730", "97.0%", "48.0", "1.00", "5.0x", "10.00", "5.0x"],
        ["TF-IDF with logistic regression", "0.8000", "88.9%", "1.0", "-", "-", "-", "-"],
        ["the first 2 of 6 layers, trained alike", "0.8840", "98.2%", "47.0", "1.90", "2.6x", "19.00", "2.6x"],
    ]
    page = to_html(found, RunLog((), None, None, 0))
    assert baselines.HEADING in page and "the first 2 of 6 layers" in page
