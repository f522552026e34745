"""The report: its table, its Markdown, and the file that says that a run is done."""

import json
from dataclasses import MISSING, fields, replace

import pytest

from secateur.errors import UserError
from secateur.report import Report

PROTOCOL = {
    "batch": 1,
    "tokens": 32,
    "repeats": 50,
    "order": "in turn",
    "threads": 2,
    "dtype": "float32",
    "runtime": "torch eager",
    "machine": "a CPU",
}
REPORT = Report(
    recipe={"model": "m", "data": "d", "method": "grain", "density": 0.05, "seed": 3},
    metric="accuracy",
    teacher_scores={"accuracy": 0.9, "f1": 0.8},
    scores={"accuracy": 0.873, "f1": 0.7},
    rows={"train": 67349, "validation": 1872},
    density={"prunable": 0.0499, "layers": 0.06, "model": 0.5},
    structure=[{"layer": 0, "heads": "2/4", "qk": "3/32", "vo": "5/32", "ffn": "7/48"}, {"layer": "stream"}],
    parameters={"teacher": 22_713_986, "model": 12_000_000},
    weight_bytes={"teacher": 90_855_944, "model": 48_000_000},
    latency=[{"latency_ms": 2.0, "speed_up": 2.5, "against": {"latency_ms": 5.0}, "protocol": PROTOCOL}],
    verified={"masked_compact": 2e-6, "compact_loaded": 0.0, "examples": 64},
    seconds={"prune": 100.4, "recover": 300.0},
    versions={"torch": "2.13.0"},
    data="0123",
)


def test_the_table_has_every_number():
    assert REPORT.table() == [
        ("accuracy", "0.9000", "0.8730"),
        ("retention", "100%", "97.0%"),
        ("density, prunable", "1", "0.0499"),
        ("density, whole model", "1", "0.5000"),
        ("parameters", "22,713,986", "12,000,000"),
        ("weights, MB", "90.9", "48.0"),
        ("latency 1 x 32, ms", "5.00", "2.00"),
        ("speed-up 1 x 32", "1", "2.5x"),
    ]


def test_retention_is_the_main_scores_ratio():
    assert REPORT.retention == pytest.approx(0.97)
    assert replace(REPORT, metric="f1").retention == pytest.approx(0.875)


def test_a_teacher_that_scores_0_has_no_retention(tmp_path):
    report = replace(REPORT, metric="matthews", teacher_scores={"matthews": 0.0}, scores={"matthews": 0.1})
    assert report.retention is None
    assert report.table()[1] == ("retention", "100%", "-")
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["retention"] is None
    assert Report.load(tmp_path) == report


def test_markdown_tells_numbers_structure_and_protocol():
    lines = REPORT.to_markdown().splitlines()
    assert lines[0] == "# grain at density 0.05"
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
    assert "latency" not in replace(REPORT, latency=[]).to_markdown()


def test_a_time_is_shown_asked_predicted_and_measured(tmp_path):
    times = {"asked": (5.0, 4.0), "predicted": (4.9, 4.08), "measured": (5.2, 3.85)}
    target = {f"{what}_ms": ms for what, (ms, _) in times.items()}
    target |= {f"{what}_speedup": speedup for what, (_, speedup) in times.items()}
    target |= {"unpruned_ms": {"predicted": 20.0, "measured": 20.02}, "protocol": PROTOCOL}
    recipe = {**REPORT.recipe, "density": None, "latency": 5.0, "speedup": None}
    report = replace(REPORT, recipe=recipe, target=target)
    assert report.table()[-3:] == [
        ("asked 1 x 32, ms", "", "5.00 (4.0x)"),
        ("predicted 1 x 32, ms", "20.00", "4.90 (4.1x)"),
        ("measured 1 x 32, ms", "20.02", "5.20 (3.9x)"),
    ]
    assert report.to_markdown().startswith("# grain at 5 ms\n")
    assert replace(report, recipe={**recipe, "latency": None, "speedup": 4.0}).aim == "4x"
    assert any(note.startswith("asked, predicted") and "2 threads" in note for note in report.footnotes())
    report.save(tmp_path)
    assert Report.load(tmp_path) == report


def test_save_and_load(tmp_path):
    REPORT.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == REPORT.to_markdown()
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT.to_dict()
    assert Report.load(tmp_path) == REPORT


def without(name):
    return json.dumps({key: value for key, value in REPORT.to_dict().items() if key != name}).encode()


REQUIRED = [field.name for field in fields(Report) if field.default is MISSING]
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
