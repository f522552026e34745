"""Sensitivity: each score is that of a model that is really cut, and the studied model is left unchanged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from small_world import tokenizer, write_data, write_model, write_sentences
from tiny_models import CLASSIFIERS, COMMON_UNITS, inputs, tiny
from torch import nn
from transformers import BertForSequenceClassification, BertForTokenClassification

import secateur as sec
from secateur.budget.space import Space
from secateur.measure import evaluation
from secateur.measure.evaluation import encoded, scores
from secateur.measure.group_cuts import cut_to, group_cuts, in_turn
from secateur.measure.sensitivity import importance, sensitivity
from secateur.methods import METHODS
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.tasks import TASKS

ALL = tuple(COMMON_UNITS)
LABELS = ["O", "B-book", "I-book", "B-film", "I-film"]


def randomised(model):
    """The model with random weights, so that its outputs depend on the inputs and on every layer."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier, its task of 360 training and 40 validation rows, and its tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    data = write_data(folder / "data.csv", rows=400)
    model = BertForSequenceClassification.from_pretrained(write_model(folder / "model", ["bad", "good"]))
    task = TASKS.get("classification").from_data(data, metric=None, seed=0, rows=None)
    return randomised(model), task, tokenizer()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The same for token classification: sentences of different lengths, and the tags of their words."""
    folder = tmp_path_factory.mktemp("words")
    data = write_sentences(folder / "data.jsonl", rows=100)
    task = TASKS.get("tokens").from_data(data, metric="accuracy", seed=0, rows=None)
    named_tags = dict(enumerate(task.labels))
    source = write_model(folder / "model")
    model = BertForTokenClassification.from_pretrained(source, num_labels=len(named_tags), id2label=named_tags)
    return randomised(model), task, tokenizer()


def study(world, **options):
    return sensitivity(*world, **{"rows": 32, "max_length": 24, "densities": (0.5,), **options})


# Scores


@pytest.mark.parametrize("kind", ["world", "words"])
def test_each_score_is_that_of_the_cut_model(kind, request):
    model, task, words = world = request.getfixturevalue(kind)
    units = ("ffn", "head", "sublayer", "hidden")
    result = study(world, units=units, densities=(0.3,), split="validation", rows=1000, by="magnitude")
    rows = encoded(task, "validation", words, 24)
    space = Space(model, *units)
    magnitudes = METHODS.get("magnitude")(space).scores()
    assert result.dense == scores(model, task, rows, words)[task.metric]
    assert (result.rows, result.split_name) == (len(rows), None)
    for group, reaction in zip(space.groups, result.reactions, strict=True):
        for count, score, saved in zip(reaction.kept, reaction.scores, reaction.saved, strict=True):
            plan = sec.Plan.of(space, cut_to(space, magnitudes, group, count))
            assert scores(cut(model, plan), task, rows, words)[task.metric] == score
            assert saved == pytest.approx(1.0 - plan.achieved["prunable"])
    assert len({one.scores for one in result.reactions}) > 2  # otherwise the test could not fail


@pytest.mark.parametrize("kind", ["world", "words"])
def test_at_density_1_every_score_is_the_whole_models(kind, request):
    result = study(request.getfixturevalue(kind), units=ALL, densities=(1.0,))
    assert {reaction.scores for reaction in result.reactions} == {(result.dense,)}
    assert {reaction.kept for reaction in result.reactions} == {(reaction.size,) for reaction in result.reactions}


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_reused_outputs_of_layers_equal_computed_ones(model):
    model = tiny(model[0], shape=model[2])
    space = Space(model, "ffn", "qk", "vo", "head", "sublayer", "layer")
    batch = inputs(model)
    cuts = list(group_cuts(space, torch.rand(len(space)), (0.5, 0.0)).values())
    assert {one.first for one in cuts} == {0, 1}
    with torch.inference_mode():
        logits = [outputs[0] for outputs in in_turn(model, space, cuts, batch)]
        assert torch.equal(logits[0], model(**batch)[0])
        for one, own in zip(cuts, logits[1:], strict=True):
            with attached(model, space, one.masks):
                assert torch.equal(own, model(**batch)[0])


def test_every_group_appears_once(world):
    result = study(world, units=ALL, densities=(0.5, 0.25))
    space = Space(world[0], *ALL)
    assert [reaction.group for reaction in result.reactions] == [group.name for group in space.groups]
    assert [reaction.size for reaction in result.reactions] == [group.size for group in space.groups]
    ones = sum(group.size == 1 for group in space.groups)
    assert result.forwards == 2 * len(space.groups) - ones  # a group of one unit is removed at either density


def test_counts_are_rounded_down_but_the_residual_stream_keeps_a_dim(world):
    kept = {one.group: one.kept for one in study(world, units=ALL, densities=(0.99, 0.6, 0.3, 0.0)).reactions}
    assert kept["0.ffn"] == (23, 14, 7, 0) and kept["1.head"] == (1, 1, 0, 0) and kept["1.mlp"] == (0, 0, 0, 0)
    assert kept["hidden"] == (15, 9, 4, 1)


# Which units are removed first


def test_importance_is_the_sum_of_weights_times_gradients(world):
    model, task, words = world
    rows = encoded(task, "train", words, 24)
    collate = task.collator(words)
    batches = [dict(collate(rows[:8])), dict(collate(rows[8:20]))]
    space = Space(model, "ffn", "vo")
    expected = torch.zeros(len(space))
    for batch in batches:
        parts = []
        for group in space.groups:
            weight = model.get_parameter(f"{space.table.reader(group.name).path}.weight")
            gradient = torch.autograd.grad(model(**batch).loss, weight)[0]
            parts.append((weight * gradient).sum(0).abs())
        expected += torch.cat(parts)
    torch.testing.assert_close(importance(model, space, batches), expected, atol=1e-6, rtol=1e-3)


def test_the_most_important_units_are_kept(world):
    space = Space(world[0], "ffn", "head")
    importances = torch.arange(len(space)).float()
    group = space.groups[1]
    masks = cut_to(space, importances, group, 3)
    assert int((masks == 0).sum()) == group.size - 3
    assert masks[space.slices[group.name]][-3:].all()


def test_removing_the_least_important_units_changes_the_loss_less(world):
    model, task, words = world
    rows = encoded(task, "train", words, 24)[:64]
    batch = dict(task.collator(words)(rows))
    space = Space(model, "ffn")
    importances = importance(model, space, [batch])
    changes = []
    with torch.no_grad():
        whole = model(**batch).loss
        for order in (importances, -importances):
            with attached(model, space, cut_to(space, order, space.groups[0], 20)):
                changes.append(abs(float(model(**batch).loss - whole)))
    assert changes[0] < changes[1]


# The rows, and the standard error of a score


def test_rows_are_sampled_by_the_seed_and_units_are_chosen_on_other_rows(world):
    studies = (study(world, units=("ffn",), densities=(0.2,), seed=seed) for seed in (0, 0, 1))
    first, again, other = (replace(one, seconds=0.0, seed=0) for one in studies)
    assert first == again and first != other
    assert (first.rows, first.evidence, first.split, first.split_name) == (32, 32, "train", "train")
    most = study(world, rows=1000, units=("sublayer",))
    assert (most.rows, most.evidence) == (180, 180)
    assert study(world, by="magnitude", units=("sublayer",)).evidence == 0


def test_the_standard_error_of_an_accuracy_is_that_of_the_jackknife(world, monkeypatch):
    monkeypatch.setattr(evaluation, "GROUPS", 180)
    result = study(world, rows=180, units=("sublayer",))
    assert result.metric == "accuracy" and 0.1 < result.dense < 0.9
    assert result.standard_error == pytest.approx(np.sqrt(result.dense * (1 - result.dense) / 179))


# The model is left unchanged


def test_a_text_longer_than_the_model_is_refused_in_a_sentence(world):
    model, task, words = world
    long = {split: rows.map(lambda row: {"text": " ".join(["good"] * 60)}) for split, rows in task.splits.items()}
    with pytest.raises(UserError, match="give at most 32, which the model takes"):
        study((model, replace(task, splits=DatasetDict(long)), words), max_length=64)


def test_batches_are_smaller_where_the_outputs_of_a_token_are_many(world, monkeypatch):
    _, task, words = world
    whole, sizes = study(world), []
    collator = type(task).collator

    def counting(*args):
        collate = collator(*args)
        return lambda rows: sizes.append(len(rows)) or collate(rows)

    monkeypatch.setattr(type(task), "collator", counting)
    monkeypatch.setattr(type(task), "condensed", staticmethod(lambda outputs, labels: outputs))
    monkeypatch.setattr(evaluation, "MOST_TOKENS", 48)
    longest = max(len(row["input_ids"]) for row in encoded(task, "train", words, 24))
    few = study(world)
    assert few.rows == whole.rows == 32 and max(sizes) <= 48 // 2 and min(sizes) < 32 and sum(sizes) == 64, longest
    assert few.dense == whole.dense


def traces(model):
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        or (isinstance(module, nn.LayerNorm) and type(module) is not nn.LayerNorm)
    ]  # fmt: skip


def test_the_model_is_left_unchanged(world):
    model, task, words = world
    batch = dict(task.collator(words)(encoded(task, "validation", words, 24)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(**batch).logits
    model.bert.encoder.layer[1].train()
    study(world, units=ALL)
    assert model.bert.encoder.layer[1].training and not model.bert.encoder.layer[0].training
    model.eval()
    assert not traces(model) and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(**batch).logits, logits)


def test_a_model_is_left_unchanged_after_an_error(world, monkeypatch):
    model = world[0]
    calls = iter(range(1000))

    def failing(*args, **kwargs):
        if next(calls) == 3:
            raise RuntimeError("no more")
        return nn.Linear.forward(model.classifier, *args, **kwargs)

    monkeypatch.setattr(model.classifier, "forward", failing)
    with pytest.raises(RuntimeError, match="no more"):
        study(world, by="magnitude")
    monkeypatch.undo()
    assert not traces(model)


# The result


def test_json_holds_every_number(world):
    result = study(world, densities=(0.5, 0.25))
    values = json.loads(json.dumps(result.to_dict()))
    assert values["densities"] == [0.5, 0.25]
    assert [tuple(one["scores"]) for one in values["reactions"]] == [one.scores for one in result.reactions]


def test_a_drop_is_positive_for_a_worse_score(world):
    result = study(world, units=("sublayer",), densities=(0.0,))
    assert result.drop(result.dense - 0.1) == pytest.approx(0.1)
    assert replace(result, greater_is_better=False).drop(result.dense + 0.1) == pytest.approx(0.1)


# Refusals


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"densities": ()}, "got none"),
        ({"densities": (0.5, 0.5)}, "each once, got 0.5, 0.5"),
        ({"densities": (1.5,)}, "densities in .0, 1."),
        ({"rows": 0}, "rows of at least 1, got 0"),
        ({"split": "test"}, "train or validation, got 'test'"),
        ({"by": "gradeint"}, "got 'gradeint'"),
        ({"by": "grain"}, "learns from gradients of a training, .*: use gradient"),
        ({"by": "fisher"}, "learns from gradients of a training, .*: use gradient"),
        ({"units": ("ffm",)}, "ffm"),
    ],
)
def test_arguments_out_of_range_are_refused(world, options, part):
    with pytest.raises(UserError, match=part):
        study(world, **options)


def test_a_compact_model_is_refused(world):
    model, task, words = world
    small = cut(model, sec.Magnitude(Space(model, "ffn")).plan(0.9))
    with pytest.raises(UserError, match="cut already"):
        study((small, task, words))
