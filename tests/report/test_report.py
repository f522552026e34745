"""The report of a run: its table, its Markdown, its page, and the file that marks the run as finished."""

import json
import shutil
from dataclasses import MISSING, fields, replace

import pytest
from made_up_run import PROTOCOL, REPORT, TARGET, logged, write_lines, write_run
from page_reader import Reader
from typer.testing import CliRunner

from secateur.cli import app
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, target_text, time_notes, to_markdown
from secateur.report.run_log import RunLog, read
from secateur.report.run_page import to_html, write
from secateur.report.size_text import headline, outcome
from secateur.run.sweep import trial
from secateur.run.sweep.objectives import values_of
from secateur.system.errors import UserError

SIZES = "Where the bytes of the weights are"
NOTHING = RunLog((), None, None, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run with everything that a run writes; tests only read it."""
    return write_run(tmp_path_factory.mktemp("whole"))


def test_the_table_has_every_number():
    assert score_table(REPORT) == [
        ("accuracy", "0.9000", "0.8730"),
        ("retention", "100%", "97.0%"),
        ("density, prunable", "1", "0.0499"),
        ("density, whole model", "1", "0.5000"),
        ("parameters", "22,713,986", "12,000,000"),
        ("weights, MB", "90.9", "48.0 (1.9x smaller)"),
        ("latency 1 x 32, ms", "5.00", "2.00"),
        ("speed-up 1 x 32", "1", "2.5x"),
    ]


def test_retention_is_the_main_scores_ratio():
    assert REPORT.retention == pytest.approx(0.97)
    assert replace(REPORT, metric="f1").retention == pytest.approx(0.875)


def test_a_teacher_that_scores_0_has_no_retention(tmp_path):
    report = replace(REPORT, metric="matthews", teacher_scores={"matthews": 0.0}, scores={"matthews": 0.1})
    assert report.retention is None
    assert score_table(report)[1] == ("retention", "100%", "-")
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["retention"] is None
    assert Report.load(tmp_path) == report


def test_a_score_of_which_less_is_better_has_no_retention_and_says_so_in_its_file(tmp_path):
    scores = {"scores": {"mae": 0.9}, "teacher_scores": {"mae": 0.3}, "baseline": 1.0}
    report = replace(REPORT, metric="mae", greater_is_better=False, **scores)
    assert report.retention is None and "mae 0.3000 -> 0.9000" in to_markdown(report).splitlines()[0]
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    values = {key: value for key, value in report.to_dict().items() if key != "greater_is_better"}
    (tmp_path / "report.json").write_text(json.dumps(values), encoding="utf-8")
    assert Report.load(tmp_path).greater_is_better, "a report of before"


def test_markdown_has_numbers_structure_and_protocol():
    lines = to_markdown(REPORT).splitlines()
    assert lines[0] == "# It worked: 97.0% of the accuracy, 2.5x faster, 1.9x smaller"
    assert lines[2] == "m on d: grain at density 0.05"
    assert "| accuracy | 0.9000 | 0.8730 |" in lines
    assert "| 0 | 2/4 | 3/32 | 5/32 | 7/48 |  |" in lines
    notes = " ".join(line for line in lines if line.startswith("- "))
    for part in (
        "1,872 validation rows, seed 3",
        "2.0e-06",
        "64 inputs",
        "prune 100, recover 300",
        "2 threads",
        "a CPU",
    ):
        assert part in notes
    assert "latency" not in to_markdown(replace(REPORT, latency=[]))


@pytest.mark.parametrize(("split", "rows"), [("test", "test rows"), (None, "rows split off from training")])
def test_the_rows_have_the_name_of_their_split_in_the_data(tmp_path, split, rows):
    report = replace(REPORT, splits={"train": "train", "validation": split})
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    text = to_markdown(report)
    assert f"accuracy on 1,872 {rows}, seed 3" in text and "validation rows" not in text


def test_a_target_latency_is_shown_as_asked_predicted_and_measured(tmp_path):
    recipe = {**REPORT.recipe, "target": {"density": None, "latency": 5.0, "speedup": None}}
    report = replace(REPORT, recipe=recipe, target=TARGET)
    assert score_table(report)[-3:] == [
        ("asked 1 x 32, ms", "", "5.00 (4.0x)"),
        ("predicted 1 x 32, ms", "", "4.90 (4.1x), 20.00 before pruning"),
        ("measured 1 x 32, ms", "", "5.20 (3.9x), 20.02 before pruning"),
    ]  # the student's before pruning, not the teacher's
    assert "m on d: grain at 5 ms\n" in to_markdown(report)
    fourfold = {**recipe, "target": {"density": None, "latency": None, "speedup": 4.0}}
    assert target_text(replace(report, recipe=fourfold)) == "4x"
    assert any(note.startswith("latency asked for") and "2 threads" in note for note in footnotes(report))
    report.save(tmp_path)
    assert Report.load(tmp_path) == report


def test_the_conditions_of_a_table_that_was_measured_otherwise_are_noted():
    same, *_ = time_notes(replace(REPORT, target=TARGET | {"table": PROTOCOL}))
    assert same.endswith("and measured at the end: 2 threads, float32, torch eager, a CPU")
    other, *_ = time_notes(replace(REPORT, target=TARGET | {"table": {**PROTOCOL, "threads": 1}}))
    assert other == (
        "latency asked for, and predicted from the run's latency table: 1 thread, float32, torch eager, a CPU; "
        "measured at the end: 2 threads, float32, torch eager, a CPU"
    )


def test_a_size_asked_for_is_beside_the_one_reached():
    recipe = {**REPORT.recipe, "target": {"density": None, "size": 48_500_000}}
    report = replace(REPORT, recipe=recipe)
    assert target_text(report) == "48.5 MB"
    rows = score_table(report)
    assert rows[rows.index(("weights asked for, MB", "", "48.5")) - 1][0] == "weights, MB"


def test_save_and_load(tmp_path):
    write(REPORT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}, (
        "report.json marks a finished run"
    )
    REPORT.save(tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == to_markdown(REPORT)
    assert json.loads((tmp_path / "report.json").read_text()) == {"version": 2, **REPORT.to_dict()}
    assert Report.load(tmp_path) == REPORT


# The page


def headings(page):
    return [part.partition("</h2>")[0] for part in page.split("<h2>")[1:]]


def captions(page):
    return [part.partition("</figcaption>")[0] for part in page.split("<figcaption>")[1:]]


def test_the_outcome_has_the_range_of_speed_ups_and_the_score_where_nothing_was_to_keep():
    slow = {**REPORT.latency[0], "speed_up": 0.8}
    assert outcome(replace(REPORT, latency=[*REPORT.latency, slow])) == (
        "97.0% of the accuracy, 0.8x to 2.5x the speed, 1.9x smaller"
    )
    assert outcome(replace(REPORT, latency=[slow])) == "97.0% of the accuracy, 0.8x as fast, 1.9x smaller"
    fast = [*REPORT.latency, {**slow, "speed_up": 1.2}]
    assert outcome(replace(REPORT, latency=fast)) == "97.0% of the accuracy, 1.2x to 2.5x faster, 1.9x smaller"
    lost = replace(REPORT, latency=[], teacher_scores={"accuracy": 0.0}, scores={"accuracy": 0.0})
    assert outcome(lost).endswith("1.9x smaller") and "faster" not in outcome(lost)


def test_a_run_to_a_time_leads_with_that_time_in_every_place():
    """Not with the forwards of `measurement.shapes`, of which some may be of another shape, or none a generation."""
    protocol = {**PROTOCOL, "batch": 8, "tokens": 16, "part": "generation, 2 beams"}
    times = {"measured_ms": 5.0, "measured_speedup": 4.004}
    report = replace(REPORT, target=TARGET | {"protocol": protocol} | times)
    assert outcome(report) == "97.0% of the accuracy, 4.0x faster (8 x 16, generation, 2 beams), 1.9x smaller"
    assert "; 20.02 -> 5.00 ms, 4.0x faster at 8 x 16, generation, 2 beams; accuracy" in headline(report)
    assert "5.0 ms at 8 x 16, generation, 2 beams" in to_html(report, NOTHING)
    assert values_of(report, ["speedup", "ms"]) == [4.004, 5.0]
    assert values_of(REPORT, ["speedup", "ms"]) == [2.5, 2.0]
    assert trial._numbers(report)["shape"] == "8 x 16, generation, 2 beams"
    slower = TARGET | {"measured_speedup": 0.9}
    assert "0.9x as fast (1 x 32), " in outcome(replace(REPORT, target=slower))


def test_no_page_names_a_folder_of_this_machine(tmp_path):
    paths = {"model": str(tmp_path / "bert"), "teacher": "/home/somebody/teacher"}
    recipe = {**REPORT.recipe, **paths, "data": {"source": str(tmp_path / "d.csv"), "evaluation": "~/pairs.csv"}}
    report = replace(REPORT, recipe=recipe)
    for page in (to_html(report, NOTHING), to_markdown(report)):
        assert "bert on d.csv: grain at density 0.05" in page
        assert str(tmp_path) not in page and "somebody" not in page and "~/" not in page
    assert "model: bert" in to_html(report, NOTHING) and "evaluation: pairs.csv" in to_html(report, NOTHING)


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_of_a_whole_run(whole):
    page = page_of(whole)
    assert headings(page) == [
        "Result",
        "What was kept",
        "Training",
        "Pruning over time",
        "Latency",
        "To load it",
        "How it was made",
    ]
    assert captions(page) == [
        SIZES,
        "QK dims of each head, of 8",
        "VO dims of each head, of 8",
        "FFN neurons of each layer",
        "Density",
        "Terms of the loss, on a logarithmic scale",
        "accuracy on the validation rows",
        "Examples per second",
        "Memory of the process, MB",
        "FFN neurons",
        "QK dims",
        "VO dims",
    ]
    identities = [a["id"] for _, a in Reader(page).elements if "id" in a]
    assert len(identities) == len(set(identities)) > len(captions(page))


def test_the_page_has_the_numbers_their_protocol_and_their_origin():
    page = Reader(to_html(REPORT, NOTHING)).text
    for row in score_table(REPORT):
        assert "".join(row) in page
    for part in (*footnotes(REPORT), "97.0% of the teacher 0.9000", "4.90-5.20", "1.90-2.30", "torch2.13.0"):
        assert part in page
    for part in ("data fingerprint0123", "train rows67,349", "method: {name: grain}", "m on d"):
        assert part in page


def test_the_headline_has_size_speed_and_score():
    line = "90.9 -> 48.0 MB, 1.9x smaller; 5.00 -> 2.00 ms, 2.5x faster at 1 x 32; accuracy 0.9000 -> 0.8730"
    assert f"**{line}**" in to_markdown(REPORT).splitlines()
    assert "48.0 MB90.9 → 48.0 MB, 1.9x smaller" in Reader(to_html(REPORT, NOTHING)).text
    larger = replace(REPORT, weight_bytes={"teacher": 50_000, "model": 100_000}, latency=[])
    assert headline(larger) == "0.05 -> 0.1 MB, 2.0x larger; accuracy 0.9000 -> 0.8730"


def test_the_parts_of_the_bytes_are_shown_and_may_be_missing():
    note = next(note for note in footnotes(REPORT) if note.startswith("where the bytes are"))
    assert "embeddings 47.7 -> 46.0, layers 42.6 -> 1.5, head 0.594 -> 0.48" in note
    assert "shares" not in note
    without = {who: {**parts, "head": 0} for who, parts in REPORT.bytes.items()}
    for shared, words in ((True, "shares the embeddings"), (False, "head 0.0 -> 0.0"), (None, "no head has weights")):
        (note,) = (one for one in footnotes(replace(REPORT, bytes=without, shared_output=shared)) if "bytes are" in one)
        assert words in note and ("shares" in note) is (shared is True)
    older = replace(REPORT, bytes=None)
    assert not any("bytes" in note for note in footnotes(older))
    assert SIZES not in captions(to_html(older, NOTHING))


def test_lines_and_bands_are_described_in_words(whole):
    words = [text.partition("</desc>")[0] for text in page_of(whole).split("<desc")[1:]]
    assert any("prune: density from 0.91 to 0.1" in text for text in words)
    assert any("recover: logits from 2.13333 to 3.33333" in text for text in words)
    assert any(">0 from 24 to " in text and " of 24; 1 from 24 to " in text for text in words)


def test_a_run_in_rounds_says_when_they_are_and_draws_their_borders(whole):
    """The prune stage is 40 of 80 steps."""
    rounds = {"layers": 2, "begin": 0.025, "removed": 0.125, "recovered": 0.25, "finer": 0.325}
    report, log = replace(REPORT, rounds=rounds), read(whole)
    said = (
        "in rounds: all layers but 2 are removed from 2% to 12% of the run, the model then recovers until 25%, and "
        "finer units are removed from 32% on"
    )
    assert said in footnotes(report) and not any("in rounds" in note for note in footnotes(REPORT))
    page = to_html(report, log)
    lines = "the last layer is removed at step 10, the round of finer units begins at step 20"
    assert said in Reader(page).text and f"Dashed lines: {lines}." in Reader(page).text
    assert page.count(f"; {lines}</desc>") == 3 and "Dashed lines" not in to_html(REPORT, log)
    later = to_html(replace(report, rounds={**rounds, "recovered": 0.6}), log)
    assert "Dashed lines: the last layer is removed at step 10." in Reader(later).text


def test_what_a_run_did_not_write_is_left_out():
    page = to_html(REPORT, NOTHING)
    assert headings(page) == ["Result", "What was kept", "Latency", "To load it", "How it was made"]
    assert captions(page) == [SIZES, "FFN neurons of each layer"]
    bare = to_html(replace(REPORT, latency=[]), NOTHING)
    assert headings(bare) == ["Result", "What was kept", "To load it", "How it was made"]
    assert "speed" not in bare.partition("</dl>")[0]


def without_memory(line):
    return {name: value for name, value in line.items() if not name.endswith("_mb")}


def test_pictures_of_missing_values_are_left_out(whole):
    bare = [
        replace(stage, rates=([], []), lines=[without_memory(line) for line in stage.lines if "eval_loss" not in line])
        for stage in read(whole).stages
    ]
    page = to_html(REPORT, RunLog(tuple(bare), None, None, 0))
    assert headings(page) == ["Result", "What was kept", "Training", "Latency", "To load it", "How it was made"]
    assert captions(page)[2:] == ["Density", "Terms of the loss, on a logarithmic scale"]


def test_terms_of_the_loss_with_a_zero_have_a_linear_scale(tmp_path):
    write_lines(tmp_path / "log.jsonl", [{**line, "loss_hidden": 0.0} for line in logged() if "loss_hidden" in line])
    assert "Terms of the loss" in captions(to_html(REPORT, read(tmp_path)))


def test_gates_have_a_picture_of_their_probabilities_and_one_of_their_gradients(tmp_path):
    gates = {"open_head": 0.75, "open_ffn": 0.5, "gradient_head": 2e-3, "gradient_ffn": 1e-5, "penalty_head": 1e-3}
    write_lines(tmp_path / "log.jsonl", [{**line, **gates} for line in logged() if "density" in line])
    page = to_html(REPORT, read(tmp_path))
    at = captions(page).index("Density") + 1
    assert captions(page)[at : at + 3] == [
        "Probability that a gate is open, by kind of unit",
        "Absolute gradient of a gate, by kind of unit, on a logarithmic scale",
        "That of the penalty alone, by kind of unit, on a logarithmic scale",
    ]
    assert "prune: head from 0.75 to 0.75; prune: ffn from 0.5 to 0.5" in page
    assert "prune: head from 0.002 to 0.002" in page


def test_heads_pruned_as_units_have_one_picture(tmp_path):
    page = page_of(write_run(tmp_path, REPORT, "head", "ffn"))
    assert captions(page)[1:3] == ["QK and VO dims of each head, of 8", "FFN neurons of each layer"]
    assert captions(page)[-2:] == ["Heads", "FFN neurons"]


def test_the_residual_stream_has_a_picture_only_if_it_was_cut(tmp_path):
    whole, cut = ([{"layer": "stream", "hidden": hidden}] for hidden in ("16/16", "9/16"))
    assert captions(to_html(replace(REPORT, structure=whole), NOTHING)) == [SIZES]
    assert captions(to_html(replace(REPORT, structure=cut), NOTHING)) == [SIZES, "Dims of the residual stream"]


def test_a_target_latency_is_on_the_page():
    recipe = {**REPORT.recipe, "target": {"density": None, "latency": 5.0, "speedup": None}}
    page = Reader(to_html(replace(REPORT, recipe=recipe, target=TARGET, latency=[]), NOTHING)).text
    for part in ("asked5.004.0x", "predicted20.004.904.1x", "measured20.025.203.9x", "5.2 ms at 1 x 32"):
        assert part in page.replace("\n", "")


def test_the_caption_names_rows_held_out_of_training(whole):
    report = replace(REPORT, recipe={**REPORT.recipe, "training": {"select": 1500}})
    page = to_html(report, replace(NOTHING, stages=read(whole).stages))
    assert "accuracy on 1,500 rows held out of training" in captions(page)


def score_picture(page):
    """The caption of the picture of scores, and whether the teacher's is in it."""
    at = next(number for number, text in enumerate(captions(page)) if " on " in text and "scale" not in text)
    return captions(page)[at], ">teacher</text>" in page.split("<svg")[at + 1].partition("</svg>")[0]


@pytest.mark.parametrize(
    ("recipe", "caption", "teacher"),
    [
        ({}, "the validation rows", True),
        ({"training": {"evaluation_rows": 1872}}, "the validation rows", True),
        ({"training": {"evaluation_rows": 200}}, "the first 200 of 1,872 validation rows", False),
        ({"training": {"select": 1500, "evaluation_rows": 200}}, "1,500 rows held out of training", False),
        ({"training": {"evaluation_rows": 200}, "data": {"source": "d", "tuning_rows": 400}},
         "the first 200 of 400 rows held out of training", False),
        ({"data": {"source": "d", "tuning_rows": 400}}, "400 rows held out of training", False),
    ],
)  # fmt: skip
def test_the_scores_during_training_are_beside_the_teachers_only_on_the_same_rows(whole, recipe, caption, teacher):
    report = replace(REPORT, recipe=REPORT.recipe | recipe)
    page = to_html(report, replace(NOTHING, stages=read(whole).stages))
    assert score_picture(page) == (f"accuracy on {caption}", teacher)


def test_held_out_training_rows_are_shown_by_their_own_metric(tmp_path):
    """An embedding model with an evaluation is scored by its agreement with the teacher on training rows."""
    write_lines(tmp_path / "log.jsonl", [{**line, "eval_neighbours": 0.7} for line in logged() if "eval_loss" in line])
    recipe = REPORT.recipe | {"data": {"source": "d", "tuning_rows": 400}}
    report = replace(REPORT, recipe=recipe, training_metric="neighbours", tuning={"rows": 400, "score": 0.75})
    assert score_picture(to_html(report, read(tmp_path))) == ("neighbours on 400 rows held out of training", False)
    assert any(note.startswith("neighbours 0.7500 on 400 training rows") for note in footnotes(report))


def test_a_chosen_density_and_chosen_layers_have_a_picture_each():
    """Of different titles, from which the ids of a page are made."""
    trial = {"score": 0.8, "standard_error": None}
    goal = {"keep_score": 0.97, "needed": 0.85, "density": 0.1, "rows": 100, "trials": [trial | {"density": 0.2}]}
    depth = {"layers": 3, "of": 6, "rows": 100, "trials": [trial | {"layers": 3}]}
    teacher = {"held_out": 0.9, "validation": 0.9}
    page = to_html(replace(REPORT, goal=goal | {"teacher": teacher}, depth=depth), NOTHING)
    assert captions(page)[1:3] == ["accuracy of each trial, by density", "accuracy of each trial, by layers kept"]
    identities = [a["id"] for _, a in Reader(page).elements if "id" in a]
    assert len(identities) == len(set(identities))


def test_damaged_lines_of_a_log_are_counted():
    page = to_html(REPORT, replace(NOTHING, unread=7))
    assert "damaged lines of the logs, left out: 7" in page


def test_names_of_models_and_data_are_escaped():
    odd = "<script>alert(1)</script>"
    report = replace(
        REPORT,
        recipe={**REPORT.recipe, "model": odd, "data": {"source": odd}, "method": {"name": odd}},
        metric="accuracy",
    )
    page = Reader(to_html(report, NOTHING))
    assert not page.named("script") and page.text.count(odd) >= 6


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        write(REPORT, tmp_path)


def test_the_command_writes_the_same_pages_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    names = ("report.md", "report.html")
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    result = CliRunner().invoke(app.app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert all(str(tmp_path / name) in result.stdout for name in names)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    result = CliRunner().invoke(app.app, ["report", str(tmp_path), "--json"])
    assert json.loads(result.stdout) == REPORT.to_dict()


def test_the_command_refuses_a_folder_without_a_report(tmp_path):
    result = CliRunner().invoke(app.app, ["report", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give the folder of a finished run" in result.stderr
    assert not list(tmp_path.iterdir())


# Loading a report


def without(name):
    return json.dumps({key: value for key, value in REPORT.to_dict().items() if key != name}).encode()


REQUIRED = [field.name for field in fields(Report) if field.default is field.default_factory is MISSING]
DAMAGED = {
    "empty": b"",
    "cut short": json.dumps(REPORT.to_dict()).encode()[:-20],
    "not text": b"\xff\xfe\x00",
    "null": b"null",
    "a number": b"3",
    "a list": b"[]",
    "no keys": b"{}",
    "unknown key": json.dumps(REPORT.to_dict() | {"colour": "green"}).encode(),
    **{f"no {name}": without(name) for name in ("retention", *REQUIRED)},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_report_is_refused(tmp_path, name):
    (tmp_path / "report.json").write_bytes(DAMAGED[name])
    with pytest.raises(UserError, match=r"report\.json is not a report that can be read .* finished run$") as refusal:
        Report.load(tmp_path)
    assert "\n" not in str(refusal.value)


def test_no_report_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        Report.load(tmp_path)


def test_peaks_of_memory_are_noted_with_the_run_last():
    kept = {"run": {"resident": 3_000_000_000, "allocated": 5_000_000}, "prune": {"resident": 2_000_400_000}}
    notes = footnotes(replace(REPORT, memory={**kept, "counted": "bytes at the highest"}))
    assert "peak memory, resident, MB: prune 2,000, run 3,000 (bytes at the highest)" in notes
    assert "peak memory, allocated, MB: run 5 (bytes at the highest)" in notes
    assert not any("peak memory" in note for note in footnotes(REPORT))


# Each class


def with_classes(count, teacher=0.9, change=-0.05):
    """Classes of which each loses more than the one before."""
    scores = [{"precision": 0.5, "recall": 0.25, "f1": teacher}, {"precision": 1.0, "recall": 0.0}]
    return [
        {
            "name": f"<class {n}>",
            "rows": 1000 + n,
            "teacher": scores[0],
            "model": scores[1] | {"f1": teacher + n * change},
        }
        for n in range(count)
    ]


def test_the_report_has_a_row_for_each_class_and_names_those_that_lost_most():
    report = replace(REPORT, classes=with_classes(5))
    sentence = "F1 has fallen in 4 of 5 classes, most in: <class 4> 0.900 to 0.700, <class 3> 0.900 to 0.750, "
    text = to_markdown(report)
    assert sentence in text
    assert "| <class 4> | 1,004 | 0.500 | 1.000 | 0.250 | 0.000 | 0.900 | 0.700 | -0.200 |" in text
    page = to_html(report, NOTHING)
    assert "&lt;class 4&gt;" in page and "<details" not in page.partition("Each class")[2].partition("</section>")[0]
    assert "Each class" not in to_markdown(REPORT) and "Each class" not in to_html(REPORT, NOTHING)


def test_many_classes_are_folded_and_classes_that_were_not_recorded_are_dashes():
    report = replace(REPORT, classes=[{**one, "teacher": None} for one in with_classes(77)])
    part = to_html(report, NOTHING).partition("Each class")[2]
    assert "All 77 classes" in part.partition("<details")[2].partition("</summary>")[0]
    assert "were not recorded" in part and "<class 7>" not in to_markdown(report)
    gained = replace(REPORT, classes=with_classes(3, change=0.01))
    assert "F1 has fallen in none of 3 classes." in to_markdown(gained)
