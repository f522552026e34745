"""Reading the folder of a run: its logs, the units kept over time, and the dims that each head kept."""

import json

import pytest
from made_up_run import logged, write_lines, write_model

from secateur.report.run_log import KeptUnits, read
from secateur.system.errors import UserError


def line(step, stage="prune", **more):
    return {"stage": stage, "step": step, "of": 20, "loss": 1.0, **more}


def timed(step, seconds, **more):
    return line(step, seconds=seconds, rows=10 * step, **more)


def stage_of(folder, lines):
    write_lines(folder / "log.jsonl", lines)
    (stage,) = read(folder).stages
    return stage


def test_an_empty_folder_has_no_logs(tmp_path):
    log = read(tmp_path)
    assert (log.stages, log.kept_units, log.kept_heads, log.unread) == ((), None, None, 0)


def test_stages_come_in_the_order_in_which_they_ran(tmp_path):
    write_lines(tmp_path / "log.jsonl", logged(("teacher-training", "prune", "recover")))
    assert [(stage.name, stage.steps) for stage in read(tmp_path).stages] == [
        ("teacher-training", 40),
        ("prune", 40),
        ("recover", 40),
    ]


def test_a_curve_is_the_steps_and_values_where_something_was_logged(tmp_path):
    stage = stage_of(tmp_path, [line(4, density=1.0), line(8, loss_a=3.0), line(12, density=0.5, loss_b=1.0)])
    assert stage.curve("density") == ([4, 12], [1.0, 0.5])
    assert stage.curve("nothing") == ([], [])
    assert stage.keys("loss_") == ["loss_a", "loss_b"]


def test_the_last_log_of_a_repeated_step_counts(tmp_path):
    stage = stage_of(tmp_path, [line(4, a=1), line(8, a=2), line(12, a=3), line(8, a=4), line(12, a=5), line(16, a=6)])
    assert stage.curve("a") == ([4, 8, 12, 16], [1, 4, 5, 6])


def test_rates_are_rows_over_seconds_between_two_logs(tmp_path):
    assert stage_of(tmp_path, [timed(4, 1.0), timed(8, 2.0), timed(12, 6.0)]).rates == ([8, 12], [40.0, 10.0])


@pytest.mark.parametrize("scored", ["eval_runtime", "ramp_runtime"])
def test_rates_exclude_the_time_of_evaluations(tmp_path, scored):
    evaluation = {"stage": "prune", "step": 8, "of": 20, scored: 3.0, "seconds": 4.5, "rows": 80}
    stage = stage_of(tmp_path, [timed(4, 1.0), evaluation, timed(8, 5.0)])
    assert stage.rates == ([8], [40.0]) and len(stage.lines) == 3


def test_rates_do_not_span_two_attempts(tmp_path):
    again = [timed(4, 10.0), timed(8, 11.0), timed(8, 9.0), timed(12, 10.0), timed(16, 0.5)]
    assert stage_of(tmp_path, again).rates == ([8, 12], [40.0, 40.0])


def test_a_run_that_did_not_count_rows_has_no_rates(tmp_path):
    assert stage_of(tmp_path, [line(4), line(8)]).rates == ([], [])


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    good = json.dumps(line(4))
    (tmp_path / "log.jsonl").write_bytes(f'{good}\n{good[:20]}\nnull\n{{"step": 3}}\n'.encode() + b"\xff\n")
    log = read(tmp_path)
    assert (len(log.stages[0].lines), log.unread) == (1, 4)


def test_kept_units_over_time(tmp_path):
    counts = [(4, 24, 9), (8, 20, 8), (8, 16, 7), (12, 2, 1)]
    lines = [line(step, progress=step / 40, kept={"0.ffn": ffn, "hidden": hidden}) for step, ffn, hidden in counts]
    write_lines(tmp_path / "pruned.jsonl", lines)
    assert read(tmp_path).kept_units == KeptUnits(
        20, {"0.ffn": ([4, 8, 12], [24, 16, 2]), "hidden": ([4, 8, 12], [9, 7, 1])}, of_run=40
    )
    write_lines(
        tmp_path / "pruned.jsonl", [{name: value for name, value in one.items() if name != "progress"} for one in lines]
    )
    assert read(tmp_path).kept_units.of_run is None


@pytest.mark.parametrize("units", [("ffn", "qk", "vo"), ("hidden", "head", "sublayer", "ffn"), ("layer", "qk")])
def test_heads_add_up_to_the_plans_summary(tmp_path, units):
    space, plan = write_model(tmp_path / "model", *units)
    kept = read(tmp_path).kept_heads
    for axis in ("qk", "vo"):
        sums = [f"{sum(heads)}/{kept.head_dim * len(heads)}" for heads in kept.dims[axis].values()]
        assert sums == [row[axis] for row in plan.read(space).summary()[:-1]]
    alive = [f"{sum(n > 0 for n in heads)}/{len(heads)}" for heads in kept.dims["vo"].values()]
    assert alive == [row["heads"] for row in plan.read(space).summary()[:-1]]
    assert [*kept.dims["qk"]] == [*kept.dims["vo"]] == ["0", "1"]
    assert kept.group_sizes == {group.name: group.size for group in space.groups}


def test_weights_are_not_needed(tmp_path):
    write_model(tmp_path / "model")
    before = read(tmp_path)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert read(tmp_path) == before


@pytest.mark.parametrize("name", ["plan.json", "config.json"])
def test_a_damaged_model_is_refused(tmp_path, name):
    write_model(tmp_path / "model")
    (tmp_path / "model" / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read(tmp_path)
