"""What one would otherwise take: which layers are kept, trained as the run was, once, and recorded beside its model."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_world import config, recipe_values, tokenizer, write_data, write_model
from tiny_models import tiny
from torch import nn
from transformers import BertForSequenceClassification, TrainerCallback

from secateur.budget.space import Space
from secateur.methods.rounds import stacks_of
from secateur.report.report import Report
from secateur.run import finished_baselines, pipeline, recipe
from secateur.run.baselines import BASELINES, int8, layers
from secateur.run.baselines.layers import FirstLayers, LayerCuts, SpreadLayers, nearest_count
from secateur.run.baselines.tfidf import fitted, logits_of
from secateur.run.callbacks import Recorded
from secateur.run.context import Context
from secateur.run.expected_stage import StageWatch
from secateur.run.finished_runs import read
from secateur.run.run_comparison import compare
from secateur.run.run_data import RunData
from secateur.run.run_folder import locked
from secateur.run.stages import baselines
from secateur.surgery.checkpoint import load
from secateur.surgery.cut import cut
from secateur.system import packages
from secateur.system.errors import UserError
from secateur.training.nonfinite import Diverged

ASKED = ("first-layers", "spread-layers", "tfidf")
UNTIMED = {"training.epochs": 2, "measurement.shapes": (), "measurement.baselines": ASKED}
"""The number of layers then follows from the density alone: 1 of 4."""


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model", ["bad", "good"], layers=4)
    return recipe_values(model, write_data(folder / "data.csv")) | UNTIMED


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    """(folder, report) of a run with baselines; tests only read it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, pipeline.run(recipe.make(values), folder)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(report):
    return {row["name"]: row for row in report.baselines["rows"]}


def test_baselines_count_before_all_of_them_have_ended(values, tmp_path, monkeypatch):
    """A process that is killed while it makes the second one writes nothing any more."""
    made, seconds = recipe.make(values), []

    def making(context, name):
        seconds.append(context.accounting.seconds().get("baselines"))
        if name == "second":
            raise KeyboardInterrupt
        (recorded,) = (one for one in context.callbacks if isinstance(one, Recorded))
        assert type(recorded) is not Recorded  # which each training adds: Trainer warns of two of one class
        recorded.on_log(None, None, None)  # of a training
        seconds.append(context.accounting.seconds().get("baselines"))
        return []

    monkeypatch.setattr(baselines, "kept_or_made", making)
    with pytest.raises(KeyboardInterrupt):
        baselines.make(Context(made, tmp_path, RunData(made)), ("first", "second"))
    assert seconds[0] is None and seconds[1] >= 0 and seconds[2] >= seconds[1]


# Which layers


@pytest.mark.parametrize(("total", "count"), [(total, count) for total in (2, 3, 6, 12) for count in range(1, total)])
def test_as_many_layers_as_asked_and_the_spread_ones_are_not_the_first(total, count):
    first, spread = FirstLayers.kept(count, total), SpreadLayers.kept(count, total)
    assert first == list(range(count)) and spread != first
    assert len(set(spread)) == count and spread == sorted(spread) and spread[0] >= 0 and spread[-1] < total
    gaps = [after - before for before, after in pairwise(spread)] or [0]
    assert max(gaps) - min(gaps) <= 1 and abs(spread[0] - (total - 1 - spread[-1])) <= 1


@pytest.mark.parametrize("rule", [FirstLayers, SpreadLayers])
def test_the_model_is_the_teacher_with_the_other_layers_left_out(rule):
    torch.manual_seed(0)
    model = BertForSequenceClassification(config(layers=4)).eval()
    small = cut(model, LayerCuts(model).plan(2, rule)).eval()
    model.bert.encoder.layer = nn.ModuleList([model.bert.encoder.layer[number] for number in rule.kept(2, 4)])
    batch = tokenizer()(["a fine film", "bad and dull"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        assert torch.equal(small(**batch).logits, model(**batch).logits)


def test_every_stack_keeps_the_same_part_of_its_layers():
    layers = LayerCuts(tiny("bart", num_hidden_layers=4))
    for count, kept in ((1, (1, 1)), (2, (2, 1)), (3, (3, 2))):
        plan = layers.plan(count, FirstLayers)
        assert tuple(int(plan.kept[units].sum()) for units in stacks_of(layers.space, "layer")) == kept


@pytest.mark.parametrize("one", [0.2, 0.5])
def test_the_number_of_layers_is_the_one_whose_latency_is_nearest(one):
    """Against a search among all numbers."""
    times = {count: one + (1 - one) * (count - 1) / 5 for count in range(1, 6)}
    for pruned in (0.01, 0.21, 0.4, 0.66, 0.97, 1.4):
        chosen = nearest_count(one, pruned, 6)
        assert abs(times[chosen] - pruned) == min(abs(time - pruned) for time in times.values())


# How they are made


def test_every_baseline_is_recorded_with_its_score_and_its_size(whole):
    folder, report = whole
    rows = rows_of(report)
    assert tuple(rows) == ASKED and not report.baselines["left_out"]
    for name in ("first-layers", "spread-layers"):
        model = load(folder / "baselines" / name / "model")
        assert rows[name]["density"] == pytest.approx(0.25) and rows[name]["parameters"] == model.num_parameters()
        kept = [row["ffn"].startswith("24/") for row in structure_of(model)]
        assert kept == ([True, False, False, False] if name == "first-layers" else [False, False, True, False])
    assert rows["tfidf"]["score"] == 1.0, "the words tell the label"
    assert json.loads((folder / "baselines" / "layers.json").read_text())["layers"] == 1
    assert report.seconds["baselines"] > 0


def structure_of(model):
    space = Space(BertForSequenceClassification(config(layers=4)), "layer")
    masks = torch.tensor([float(bool(model.plan["groups"][group.name]["kept"])) for group in space.groups])
    return [row for row in space.read(masks).summary() if row["layer"] != "stream"]


@pytest.mark.parametrize("name", ["first-layers", "spread-layers"])
def test_layers_are_trained_with_the_rows_the_terms_and_the_steps_of_the_run(whole, name):
    folder, _ = whole
    run, own = lines(folder / "log.jsonl"), lines(folder / "baselines" / name / "log.jsonl")
    ends = [[line for line in run if line["stage"] == stage and "loss" in line][-1] for stage in ("prune", "recover")]
    last = [line for line in own if "loss" in line][-1]
    assert last["step"] == last["of"] == sum(end["of"] for end in ends) == 18
    assert last["rows"] == ends[-1]["rows"] + ends[0]["rows"] == 4 * 18
    assert {key for key in last if key.startswith("loss")} == {key for key in ends[-1] if key.startswith("loss")}


class Interrupt(TrainerCallback):
    """Interrupts the training of a baseline after a checkpoint."""

    def on_save(self, args, state, control, **kwargs):
        if args.output_dir.endswith("spread-layers/train"):
            raise KeyboardInterrupt


def test_an_interrupted_baseline_goes_on_and_a_finished_one_is_not_made_again(values, whole, tmp_path, monkeypatch):
    trained, real = [], layers.train

    def counted(context, *rest):
        trained.append(context.folder.name)
        real(context, *rest)

    monkeypatch.setattr(layers, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe.make(values), tmp_path, [Interrupt()])
    steps = [line["step"] for line in lines(tmp_path / "baselines" / "spread-layers" / "log.jsonl")]
    report = pipeline.run(recipe.make(values), tmp_path)
    assert trained == ["first-layers", "spread-layers", "spread-layers"]
    resumed = lines(tmp_path / "baselines" / "spread-layers" / "log.jsonl")[len(steps) :]
    assert resumed[0]["step"] > steps[-1] > 0
    assert {name: row["score"] for name, row in rows_of(report).items()} == {
        name: row["score"] for name, row in rows_of(whole[1]).items()
    }
    for name in ("first-layers", "spread-layers"):
        ours, theirs = (load(place / "baselines" / name / "model").state_dict() for place in (tmp_path, whole[0]))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert not (tmp_path / "baselines" / name / "train").exists()


class Watch(StageWatch):
    """Notes the stages that it is told of, and the baselines that are trained."""

    def __init__(self):
        self.entered, self.trained = [], []

    def expect(self, stages):
        pytest.fail("nothing is known of what follows")

    def enter(self, stage):
        self.entered.append(stage)

    def on_train_begin(self, args, state, control, **kwargs):
        self.trained.append(Path(args.output_dir).parent.name)


def test_no_baseline_is_made_before_all_folders_are_held(whole, tmp_path, monkeypatch):
    folder, report = whole
    run = replace(read([folder])[0], report=replace(report, baselines=None))
    other = replace(run, folder=tmp_path)
    monkeypatch.setattr(finished_baselines, "_made", lambda *_: pytest.fail("it would be made"))
    with locked(tmp_path), pytest.raises(UserError, match="another process is running in"):
        finished_baselines.with_baselines([run, other])


def test_baselines_of_a_finished_run_are_made_once_and_compared(values, whole, tmp_path, monkeypatch):
    """Those of a run that has some are shown as they are."""
    folder, _ = whole
    plain = pipeline.run(recipe.make(values | {"measurement.baselines": False, "target.density": 0.5}), tmp_path)
    assert plain.baselines is None and not (tmp_path / "baselines").exists()
    monkeypatch.setattr(finished_baselines, "BASELINES", SimpleNamespace(all=lambda: ASKED))
    watch = Watch()
    runs = finished_baselines.with_baselines(read([folder, tmp_path]), callbacks=[watch])
    assert watch.entered == ["baselines"] and set(watch.trained) == {"first-layers", "spread-layers"}
    assert runs[1].report == Report.load(tmp_path) and tuple(rows_of(runs[1].report)) == ASKED
    assert not (tmp_path / "cache").exists() and "What you would otherwise take" in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(baselines, "make", None)
    assert finished_baselines.with_baselines(runs) == runs
    points = {point.name: point for point in compare(runs, baselines=True).points if point.origin == "baseline"}
    assert {name for name in points if name.startswith(("the first", "the middle", "2 of"))} == {
        "the first of 4 layers, trained alike (grain at density 0.3)",
        "the middle one of 4 layers, trained alike (grain at density 0.3)",
        "the first 2 of 4 layers, trained alike (grain at density 0.5)",
        "2 of 4 layers, evenly spread, trained alike (grain at density 0.5)",
    }
    assert len(points["TF-IDF with logistic regression"].models) == 1, "it is the same for both runs"
    assert not [point for point in compare(runs).points if point.origin == "baseline"]


def test_data_that_has_changed_is_refused_before_anything_is_made(values, whole, tmp_path):
    folder, report = whole
    other = write_data(tmp_path / "data.csv", rows=20)
    run = replace(read([folder])[0], report=replace(report, baselines=None))
    with pytest.raises(UserError, match=r"data.csv is not the data of .* say by --data where that is"):
        finished_baselines.with_baselines([run], other)


def test_int8_is_timed_beside_the_pruned_model_in_the_same_runtime(values, whole):
    folder, report = whole
    wanted = recipe.make(values | {"measurement.shapes": ((1, 8),), "measurement.baselines": ["int8"]})
    context = Context(wanted, folder, RunData(wanted))
    before = (folder / "baselines.json").read_text()
    baselines.run(context)
    record = baselines.reported(context)
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["int8", "pruned-fp32", "pruned-int8"]
    assert [row["pruned"] for row in rows.values()] == [False, True, True]
    for row in rows.values():
        assert row["latency"][0]["speed_up"] == pytest.approx(
            record["teacher"][0]["latency_ms"] / row["latency"][0]["latency_ms"]
        )
    assert rows["pruned-fp32"]["score"] == report.scores["accuracy"] and record["protocol"]["repeats"] == 2
    assert rows["int8"]["bytes"] == (folder / rows["int8"]["place"]).stat().st_size
    (folder / "baselines.json").write_text(before)


# What is left out


def left_out(values, folder, name, **own):
    wanted = recipe.make(values | {"measurement.baselines": [name], **own})
    context = Context(wanted, folder, RunData(wanted))
    baselines.run(context)
    return baselines.reported(context)["left_out"][name]


@pytest.fixture
def unscored(monkeypatch):
    scores = {"accuracy": 0.5, "pearson_spearman": 0.5}
    monkeypatch.setattr(baselines, "teacher_scores", lambda context, teacher: scores)
    monkeypatch.setattr(baselines, "load_teacher", lambda context: None)


def test_a_missing_package_is_named_and_the_run_goes_on(values, whole, tmp_path, monkeypatch, unscored):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setattr(int8, "load_teacher", lambda context: BertForSequenceClassification(config(layers=4)))
    assert "run pip install onnx onnxruntime" in left_out(values, tmp_path, "int8")
    assert not (tmp_path / "baselines" / "int8" / "result.json").exists(), "it is made once the package is there"


def test_layers_whose_training_diverges_are_left_out_and_the_run_goes_on(values, tmp_path, monkeypatch, unscored):
    def diverging(*arguments):
        raise Diverged("the loss is not finite at step 3 of 20")

    monkeypatch.setattr(layers, "decided_count", lambda context, cuts: 1)
    monkeypatch.setattr(layers, "_train", diverging)
    said = "its training diverged: the loss is not finite at step 3 of 20"
    assert left_out(values, tmp_path, "first-layers") == said


def test_texts_of_words_of_one_letter_have_logistic_regression_and_texts_without_words_have_none(
    values, tmp_path, unscored
):
    assert fitted(["a c", "a d", "b c", "b d"], [0, 0, 1, 1]).predict(["a", "b"]).tolist() == [0, 1]
    marks = [f"{'!' * (number + 1)},{('good', 'bad')[number % 2]}" for number in range(40)]
    (tmp_path / "marks.csv").write_text("\n".join(["text,label", *marks]))
    reason = left_out(values, tmp_path, "tfidf", **{"data.source": str(tmp_path / "marks.csv")})
    assert "cannot be trained on these texts (empty vocabulary" in reason


def test_a_task_without_classes_has_no_logistic_regression(values, tmp_path, unscored):
    scores = write_data(tmp_path / "scores.csv", lambda number: f"{number / 7:.3f}")
    assert "has no texts with one class each" in left_out(values, tmp_path, "tfidf", **{"data.source": scores})


def test_a_model_of_one_layer_has_no_fewer(tmp_path):
    layers = LayerCuts(BertForSequenceClassification(config(layers=1)))
    with pytest.raises(UserError, match="one layer"):
        baselines_count(tmp_path, layers)


def baselines_count(folder, cuts):
    return layers.decided_count(Context(None, folder, None), cuts)


# TF-IDF


def test_a_class_without_training_rows_is_never_predicted():
    model = fitted(["good film", "bad film", "good book", "bad book"], [2, 0, 2, 0])
    logits = logits_of(model, ["a good one", "a bad one"], labels=3)
    assert logits.argmax(axis=1).tolist() == [2, 0] and (logits[:, 1] < -1e8).all()


def test_a_pair_is_one_text_and_labels_are_those_of_the_head(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("sentence1,sentence2,label\n" + "a,b,yes\nc,d,no\n" * 10)
    wanted = recipe.make({"model": "m", "data": str(path)})
    task = RunData(wanted).task_as_read
    texts, classes = task.texts_with_class("train")
    assert {(text, task.labels[number]) for text, number in zip(texts, classes, strict=True)} == {
        ("a b", "yes"),
        ("c d", "no"),
    }


# The recipe


def test_true_asks_for_all_and_a_name_that_is_not_known_for_the_nearest():
    made = recipe.make({"model": "m", "data": "d", "measurement.baselines": True})
    assert made.measurement.baselines == tuple(BASELINES.all()) == ("first-layers", "int8", "spread-layers", "tfidf")
    assert recipe.make({"model": "m", "data": "d", "measurement.baselines": False}).measurement.baselines == ()
    with pytest.raises(UserError, match=r"baseline 'int4' is not known: did you mean 'int8'\?"):
        recipe.make({"model": "m", "data": "d", "measurement.baselines": ["tfidf", "int4"]})
