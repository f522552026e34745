"""The whole job on tiny data: what a run leaves, and that an interrupted one ends in the same place."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_clock import timer
from interrupted_runs import END, CopyAt, InterruptAt, NoTraining, copy_of
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, TrainerCallback

from secateur import load
from secateur.budget.latency import LatencyTable
from secateur.deploy.verify import verify
from secateur.measure import evaluation
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, target_text
from secateur.run import distillation, pipeline, recipe, teacher_scores
from secateur.run.accounting import Accounting
from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student
from secateur.run.run_data import RunData
from secateur.run.stages import cut, measure, recover
from secateur.surgery import checkpoint
from secateur.system import process_memory
from secateur.system.errors import UserError


class Beginnings(TrainerCallback):
    """How many parameters the optimizer knows as a stage begins, and the seeds of the stage: of noise, and of rows."""

    def __init__(self):
        self.known, self.seeds = {}, {}

    def on_train_begin(self, args, state, control, optimizer, **kwargs):
        self.known[Path(args.output_dir).name] = len(optimizer.state)
        self.seeds[Path(args.output_dir).name] = (args.seed, args.data_seed)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe whose model has no head yet, so that a teacher is trained first."""
    folder = tmp_path_factory.mktemp("world")
    own = recipe_values(write_model(folder / "model"), write_data(folder / "data.csv"))
    return own | {"training.evaluations": 1, "training.checkpoints": 2}


POINTS = [("teacher-training", 6), ("prune", 1), ("prune", 13), ("prune", END), ("recover", 2), ("recover", 13)]
"""Before, between and after the checkpoints of the stages of 9, 16 and 20 steps."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The folder of what kills of the finished run leave."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def finished(values, copies, tmp_path_factory):
    """(folder, report) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("run") / "finished"
    return folder, pipeline.run(recipe.make(values), folder, [CopyAt(folder, copies, *POINTS)])


def test_the_report_has_the_achieved_density_and_scores(finished, values):
    _, report = finished
    assert report.metric == "accuracy"
    assert set(report.scores) == set(report.teacher_scores) == {"accuracy", "f1", "matthews"}
    assert 0 < report.density["prunable"] <= values["target.density"]
    assert report.density["prunable"] < report.density["model"] < 1
    assert report.parameters["model"] < report.parameters["teacher"]
    assert report.weight_bytes["model"] < report.weight_bytes["teacher"]
    assert report.rows == {"train": 36, "validation": 4}
    assert report.baseline == report.teacher_scores["accuracy"] == 0.5 and report.retention is None
    assert report.standard_error == pytest.approx((0.5 * 0.5 / 3) ** 0.5)
    assert max(report.verified["masked_compact"], report.verified["compact_loaded"]) < 1e-5
    assert set(report.seconds) == {"teacher", "cache", "prune", "recover", "measure"}
    assert report.seconds == Accounting(finished[0]).seconds() and report.seconds["measure"] > 0
    (latency,) = report.latency
    assert (latency["protocol"]["batch"], latency["protocol"]["tokens"]) == (1, 8)
    assert latency["speed_up"] == latency["against"]["latency_ms"] / latency["latency_ms"]


@pytest.mark.skipif(not process_memory.measurable(), reason="only Linux reports the peak of a process")
def test_every_stage_has_a_peak_of_memory_and_the_run_the_highest(finished):
    folder, report = finished
    peaks = {name: kept["resident"] for name, kept in report.memory.items() if name != "counted"}
    assert set(peaks) == {"teacher", "cache", "prune", "recover", "measure", "run"}
    assert peaks["run"] == max(peaks.values()) and min(peaks.values()) > 1e8  # PyTorch alone is more
    assert f"recover {peaks['recover'] / 1e6:,.0f}" in " ".join(footnotes(report))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    highest = 1.02 * peaks["run"] / 1e6  # Linux counts pages on each core, and adds them up now and then
    assert all(0 < line["anonymous_mb"] <= 1.02 * line["resident_mb"] <= 1.02 * highest for line in lines)


def test_a_peak_is_the_highest_of_all_attempts(values, tmp_path, monkeypatch):
    accounting = Accounting(tmp_path)
    for peak in (7, 9, 8):
        monkeypatch.setattr(process_memory, "peaks", lambda peak=peak: {"resident": peak})
        accounting.record_peak("prune")
    monkeypatch.setattr(process_memory, "peaks", lambda: {"resident": 11})
    accounting.reset_peak()
    kept = json.loads((tmp_path / "memory.json").read_text())
    assert kept["prune"] == {"resident": 9} and kept["run"] == {"resident": 11}


@pytest.mark.parametrize(("longest", "wide"), [(32, 8), (30, 5)])
def test_batches_of_training_are_padded_to_few_lengths(values, tmp_path, longest, wide):
    material = RunData(recipe.make(values))
    material.tokenizer.model_max_length = longest  # 30 is no multiple of 4, which a batch might then pass
    rows = [{"input_ids": [5] * 5, "attention_mask": [1] * 5, "labels": 0}]
    batch = material.collator()(rows)
    assert batch["input_ids"].shape == (1, wide) and int(batch["attention_mask"].sum()) == 5


def test_the_table_and_its_footnotes_name_every_number(finished):
    _, report = finished
    labels = [what for what, _, _ in score_table(report)]
    assert labels[:4] == ["accuracy", "retention", "density, prunable", "density, whole model"]
    assert {"parameters", "weights, MB", "latency 1 x 8, ms", "speed-up 1 x 8"} <= set(labels)
    notes = " ".join(footnotes(report))
    assert "4 rows split off from training" in notes and "median of 2 forwards" in notes


def test_the_run_folder_holds_the_result_and_how_it_was_made(finished, values):
    folder, report = finished
    left = {path.name for path in folder.iterdir()}
    assert {
        "recipe.yaml",
        "versions.json",
        "log.jsonl",
        "teacher",
        "model",
        "report.json",
        "report.md",
    } <= left
    assert not left & {"prune", "cut", "recover", "cache", "teacher-training"}
    assert recipe.read(folder / "recipe.yaml", {}) == recipe.make(values)
    written = json.loads((folder / "report.json").read_text())
    assert written == {"version": 2, **json.loads(json.dumps(report.to_dict()))}
    stages_logged = {json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text().splitlines()}
    assert stages_logged == {"teacher-training", "prune", "recover"}


def test_the_model_loads(finished):
    folder, report = finished
    ids = torch.tensor([[2, 5, 9, 3]])
    ours = checkpoint.load(folder / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert ours.num_parameters() == report.parameters["model"]
    assert ours.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize(("stage", "step"), POINTS)
def test_a_killed_run_gives_the_same_result(finished, values, copies, tmp_path, stage, step):
    shutil.copytree(copy_of(copies, stage, step), tmp_path / "run")
    report = pipeline.run(recipe.make(values), tmp_path / "run")
    for name in ("teacher", "model"):
        whole = load_file(finished[0] / name / "model.safetensors")
        resumed = load_file(tmp_path / "run" / name / "model.safetensors")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert report.scores == finished[1].scores
    assert report.density == finished[1].density


@pytest.mark.parametrize(("comparison", "missing"), [("masked_compact", "cut"), ("compact_loaded", "model")])
def test_a_run_stops_if_the_cut_model_differs_from_the_masked_one(
    finished, values, tmp_path, monkeypatch, comparison, missing
):
    """Only a bug can do this; then no folder may look like a result."""

    def wrong(*args, **kwargs):
        found = verify(*args, **kwargs)
        return replace(found, **{comparison: 0.01}) if getattr(found, comparison) is not None else found

    for stage in (cut, recover):
        monkeypatch.setattr(stage, "verify", wrong)
    settled = {"model": str(finished[0] / "teacher"), "training.epochs": 1, "training.evaluations": 0}
    with pytest.raises(RuntimeError, match=r"differs by 0\.01 in a logit"):
        pipeline.run(recipe.make({**values, **settled}), tmp_path / "run")
    assert not (tmp_path / "run" / missing).exists() and not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(("decay", "anew"), [("run", False), ("run", True), ("stage", True)])
def test_recovery_continues_with_the_state_of_pruning(values, tmp_path, decay, anew):
    """Unless it has a learning rate of its own; what was kept for it goes when the run is done."""
    beginnings = Beginnings()
    own = {"training.decay": decay, "training.recover_learning_rate": 1e-4} if anew else {}
    pipeline.run(recipe.make(values | own), tmp_path / "run", [beginnings])
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in logged if line["stage"] == "recover" and "learning_rate" in line]
    assert (rates[-1] == max(rates)) == (decay == "stage")
    known = beginnings.known
    assert known["teacher-training"] == known["prune"] == 0
    assert (known["recover"] == 0) == anew
    assert beginnings.seeds["prune"] == (0, 0) and beginnings.seeds["recover"] == (1, 0), "dropout differs"
    assert not (tmp_path / "run" / distillation.MOMENTS).exists()


def test_a_finished_run_returns_its_report_again(finished, values):
    folder, report = finished
    again = pipeline.run(recipe.make(values), folder, [NoTraining()])
    assert json.dumps(again.to_dict()) == json.dumps(report.to_dict())
    assert json.dumps(Report.load(folder).to_dict()) == json.dumps(report.to_dict())


def test_another_recipe_is_refused_in_the_same_folder(finished, values):
    folder, _ = finished
    with pytest.raises(UserError, match=r"another recipe \(it differs in target.density\)"):
        pipeline.run(recipe.make(values | {"target.density": 0.4}), folder)


def test_a_folder_with_other_files_is_left_alone(values, tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is no run of secateur"):
        pipeline.run(recipe.make(values), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_fine_tuned_model_is_its_own_teacher(values, tmp_path):
    """And its word embeddings are factorised, and the result is stored in fewer bits, as it is scored."""
    model = write_model(tmp_path / "classifier", ["bad", "good"])
    short = {"model": model, "training.epochs": 1, "method": "magnitude", "target.embedding_rank": 4}
    short |= {"storage.embeddings": "int8", "storage.dtype": "bf16"}
    report = pipeline.run(recipe.make(values | short), tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {"torch.int8", "torch.float32", "torch.bfloat16"}
    assert load(tmp_path / "run" / "model").plan["embedding_rows"] == "int8"
    counted = sum(one.numel() for name, one in stored.items() if not name.endswith(".scale"))
    assert report.parameters["model"] == counted, "rows in int8 are parameters too, though not for PyTorch"
    assert not (tmp_path / "run" / "teacher").exists()
    assert "teacher" not in report.seconds
    assert report.parameters["teacher"] > report.parameters["model"]
    assert max(report.verified["masked_compact"], report.verified["compact_loaded"]) < 1e-5


def test_relu_replaces_gelu_if_the_config_says_so(finished, values, tmp_path):
    config = BertConfig.from_pretrained(values["model"])
    config.hidden_act = "relu"
    shutil.copytree(values["model"], tmp_path / "relu")
    BertModel(config).save_pretrained(tmp_path / "relu")
    changes = {"model": str(tmp_path / "relu"), "teacher": str(finished[0] / "teacher"), "training.epochs": 1}
    wanted = recipe.make(values | changes)
    context = Context(wanted, tmp_path / "run", RunData(wanted))
    teacher = load_teacher(context)
    weights, student = teacher.state_dict(), new_student(context, teacher)
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())
    pipeline.run(wanted, tmp_path / "run")
    small = load(tmp_path / "run" / "model")
    activations = {type(layer.intermediate.intermediate_act_fn) for layer in small.bert.encoder.layer}
    assert activations == {torch.nn.ReLU} and teacher.config.hidden_act == "gelu"


def test_a_teacher_whose_scores_were_kept_is_timed_on_the_device_of_the_result(finished, values, monkeypatch):
    """Nothing has moved it, while scoring has moved the result."""
    folder, report = finished
    wanted, places = recipe.make(values), []
    context = Context(wanted, folder, RunData(wanted))
    teacher, found = load_teacher(context.whole), evaluation.Scored(report.scores, [])
    assert teacher.device.type == "cpu"
    monkeypatch.setattr(measure, "grid", lambda *given, **_: places.extend(model.device for model in given[:2]) or [])
    scored = measure.Scored(load(folder / "model").to("meta"), teacher, found, None, report.teacher_scores, None, None)
    assert measure._times(context, scored).latency == []
    assert places == [torch.device("meta")] * 2


@pytest.fixture(scope="module")
def timed(values, tmp_path_factory):
    """(recipe, folder, report) of a run for a speed-up, by a table from a clock that does not tick."""
    folder = tmp_path_factory.mktemp("timed")
    model = write_model(folder / "classifier", ["bad", "good"])
    dense = AutoModelForSequenceClassification.from_pretrained(model)
    LatencyTable.measure(dense, "ffn", "qk", "vo", tokens=8, timer=timer(tokens=8)).save(folder / "table.json")
    own = {name: value for name, value in values.items() if name != "target.density"}
    own |= {
        "model": model,
        "training.epochs": 1,
        "target.speedup": 1.5,
        "target.round_to": 2,
        "target.latency_table": str(folder / "table.json"),
    }
    wanted = recipe.make(own)
    return wanted, folder / "run", pipeline.run(wanted, folder / "run")


def test_a_run_for_a_speed_up_reports_the_requested_predicted_and_measured_one(timed):
    _, folder, report = timed
    assert report.target["asked_speedup"] == pytest.approx(1.5)
    assert report.target["predicted_speedup"] >= 1.5 * (1 - 1e-9)
    assert report.target["measured_ms"] > 0 and report.target["protocol"]["tokens"] == 8
    plan = json.loads((folder / "model" / "plan.json").read_text())
    assert plan["asked"] is None and plan["latency"]["predicted_ms"] == report.target["predicted_ms"]
    assert all((last - first + 1) for _, group in plan["groups"].items() for first, last in group["kept"])
    assert target_text(report) == "1.5x" and ": grain at 1.5x" in (folder / "report.md").read_text()


def test_a_resumed_run_keeps_its_latency_table(timed, tmp_path):
    wanted, folder, report = timed
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(wanted, tmp_path / "run", [InterruptAt("prune", 2)])
    table = Path(wanted.target.latency_table)
    moved = table.rename(tmp_path / "elsewhere.json")
    again = pipeline.run(wanted, tmp_path / "run")
    moved.rename(table)
    assert again.target["predicted_ms"] == report.target["predicted_ms"]
    assert (tmp_path / "run" / "latency.json").read_text() == (folder / "latency.json").read_text()


def test_an_unreachable_speed_up_is_refused_before_the_folder_is_touched(timed, tmp_path):
    wanted = timed[0].to_dict()
    with pytest.raises(UserError, match="is out of reach: pruning only ffn, qk, vo leaves at least"):
        pipeline.run(recipe.make({**wanted, "target.speedup": 1e4}), tmp_path / "run")
    with pytest.raises(UserError, match="was measured with batch 8, not 4"):
        pipeline.run(recipe.make({**wanted, "target.shape": (4, 8)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


CHOOSING = {
    "method": "cofi",
    "method.options": {"learning_rate": 0.5},
    "method.begin": 0.1,
    "method.end": 0.45,
    "method.ramp": 0.5,
    "training.select": 6,
    "training.evaluations": 4,
    "training.decay": "stage",
    "training.recover_learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def chosen(values, tmp_path_factory):
    """(recipe, folder, report) of a run with gates that learn, whose best evaluations are taken."""
    wanted = recipe.make({**values, **CHOOSING})
    folder = tmp_path_factory.mktemp("chosen") / "run"
    return wanted, folder, pipeline.run(wanted, folder)


def test_a_method_has_its_own_defaults(chosen):
    wanted, folder, report = chosen
    assert (wanted.target.units, wanted.distillation.match, wanted.distillation.temperature) == (
        ("hidden", "head", "sublayer", "ffn"),
        "nearest-ordered",
        2,
    )
    assert 0.25 < report.density["prunable"] <= 0.3
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    pruning = [line for line in logged if line["stage"] == "prune" and "loss" in line]
    assert {"density", "density_expected", "density_target"} <= set(pruning[-1])
    assert pruning[-1]["density_target"] == pytest.approx(0.3)
    assert pruning[-1]["learning_rate"] < pruning[1]["learning_rate"]
    recovery = [line["learning_rate"] for line in logged if line["stage"] == "recover" and "loss" in line]
    warmup = math.ceil(wanted.training.warmup * len(recovery))
    assert warmup > 1 and recovery == pytest.approx([1e-3 * min(1, n / warmup) for n in range(len(recovery))])


@pytest.mark.parametrize(("stage", "step"), [("prune", 9), ("prune", END), ("recover", 13)])
def test_an_interrupted_run_selects_the_same_evaluation(chosen, tmp_path, stage, step):
    wanted, folder, report = chosen
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(wanted, tmp_path / "run", [InterruptAt(stage, step)])
    again = pipeline.run(wanted, tmp_path / "run")
    whole, resumed = (load_file(place / "model" / "model.safetensors") for place in (folder, tmp_path / "run"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert again.scores == report.scores


def test_holding_out_more_rows_than_exist_is_refused(values, tmp_path):
    with pytest.raises(UserError, match="36 training rows cannot be held out"):
        pipeline.run(recipe.make(values | {"training.select": 36}), tmp_path / "run")


@pytest.fixture(scope="module")
def settled(values, finished):
    """A recipe that starts from a teacher, without checkpoints: what is there between two trainings is on its own."""
    return recipe.make(
        {**values, "model": str(finished[0] / "teacher"), "training.epochs": 1, "training.checkpoints": 0}
    )


# What a run does between its trainings, in this order, and how often it has done it by then.
BETWEEN = [
    (cut, "cut", 1),
    (cut, "verify", 1),
    (distillation, "save_tensors", 1),
    (distillation, "save_moments", 2),
    (cut, "save", 1),
    (recover, "load_compact", 1),
    (recover, "save", 1),
    (recover, "verify", 1),
    (measure, "load_compact", 1),
    (teacher_scores, "scored", 1),
    (measure, "grid", 1),
    (measure, "card", 1),
]


@pytest.fixture(scope="module")
def uncut(settled, copies, tmp_path_factory):
    """(folder, report) of an uninterrupted run, of which a copy is kept after each action of `BETWEEN`."""
    folder = tmp_path_factory.mktemp("uncut") / "run"

    def copying(module, action, count):
        work, done = getattr(module, action), []

        def copy(*args, **kwargs):
            found = work(*args, **kwargs)
            done.append(found)
            if len(done) == count:
                shutil.copytree(folder, after(copies, module, action))
            return found

        return copy

    with pytest.MonkeyPatch.context() as patch:
        for module, action, count in BETWEEN:
            patch.setattr(module, action, copying(module, action, count))
        return folder, pipeline.run(settled, folder)


def after(copies, module, action):
    return copies / f"{module.__name__}-{action}"


@pytest.mark.parametrize(("module", "action"), [between[:2] for between in BETWEEN])
def test_a_run_killed_between_trainings_gives_the_same_result(settled, uncut, copies, tmp_path, module, action):
    """After each of these actions what comes next has not begun."""
    shutil.copytree(after(copies, module, action), tmp_path / "run")
    report = pipeline.run(settled, tmp_path / "run")
    whole, resumed = (load_file(place / "model" / "model.safetensors") for place in (uncut[0], tmp_path / "run"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert report.scores == uncut[1].scores
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in uncut[0].iterdir()}
