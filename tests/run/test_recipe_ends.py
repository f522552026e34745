"""Each key of a recipe ends in the object that it is for, so that one that is read and then forgotten is noticed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from small_world import write_world
from test_recipe import OTHER
from transformers import AutoModelForSequenceClassification

from secateur.run import models, output_cache, recipe, run_data, stage_trainer, target
from secateur.run.context import Context
from secateur.run.distillation import Distillation
from secateur.run.ramp_rows import RampRows
from secateur.run.run_data import open_data
from secateur.run.run_rounds import coarse_rounds, last_round, restarts
from secateur.run.stages import measure, prune, recover, teacher
from secateur.run.target import counted, latency_table, measured_table, new_method, schedule_of, share_to_keep, space_of
from secateur.run.training_arguments import (
    first_teacher_rate,
    learning_rate_of_run,
    steps_of_run,
    steps_of_teacher,
    training_arguments,
)
from secateur.run.trials import steps_of_trial
from secateur.run.vocabulary_data import VocabularyData, data_of

LAYERS = {"target.units": ("layer", "ffn"), "target.density": 0.3, "target.layers": 1}
STAGE = {"training.decay": "stage", "training.recover_learning_rate": 1e-6}
TIMED = {"target.density": None, "target.latency": 5.0}
RANK = {"target.embedding_rank": 4}
TASK_PIECES = {"vocabulary.pieces": "task"}
WORDS = "bert.embeddings.word_embeddings.weight"
EMBEDDINGS = {
    WORDS,
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias",
}


class End(NamedTuple):
    """Where a key ends.

    Attributes:
        value: of the key.
        read: returns what the key decides, of the context of a run.
        expected: what it returns with the value; without the key it returns something else.
        beside: other keys that the key needs.
        alone: whether these are left out too where the key is, because they need it.
    """

    key: str
    value: Any
    read: Callable[[Context], Any]
    expected: Any
    beside: dict[str, Any] = {}
    alone: bool = False


class Called(Exception):
    """A function was called, with these arguments."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def context_of(world, values):
    values = {"data.source": str(world / "data.csv"), "data.max_length": 24, "training.bf16": False} | values
    made = recipe.make(values | {"model": str(world / values.get("model", "classifier"))})
    return Context(made, world / "run", data_of(made))


def replaced(module, name, function, call):
    """What `call` returns while a function of a module is another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, function)
        return call()


def named(*_, **arguments):
    """The arguments that are given by name, in the place of what a function returns."""
    return arguments


def model_of(context):
    return AutoModelForSequenceClassification.from_pretrained(context.recipe.model)


def opened(name):
    """An argument by which the task of a run is opened."""
    at = {"task": 0, "source": 1, "options": 2}

    def read(context):
        call = {}
        open_with = lambda *placed, **other: call.update(other, placed=placed)  # noqa: E731
        replaced(run_data, "open_task", open_with, lambda: open_data(context.recipe.data, context.recipe.seed))
        return call["placed"][at[name]] if name in at else call.get(name)

    return read


def term(name, attribute, two_stacks=False):
    """An attribute of a term of the loss; None without the term."""

    def read(context):
        terms = Distillation(context.recipe, context.folder, two_stacks).terms()
        return next((getattr(one, attribute) for one in terms if one.name == name), None)

    return read


def terms_of_two_stacks(context):
    return [one.name for one in Distillation(context.recipe, context.folder, two_stacks=True).terms()]


def argument(*names):
    """Values of the `TrainingArguments` of a stage of 100 steps."""

    def read(context):
        made = training_arguments(context, "prune", 100, learning_rate=1e-3)
        values = tuple(getattr(made, name) for name in names)
        return values if len(values) > 1 else values[0]

    return read


def frozen(context):
    """The names of the parameters that are not trained."""
    model = model_of(context)
    return {
        name for name, one in models.prepared(context.recipe, model, model).named_parameters() if not one.requires_grad
    }


def dropout(context):
    model = model_of(context)
    prepared = models.prepared(context.recipe, model, model)
    return {one.p for one in prepared.modules() if isinstance(one, torch.nn.Dropout)}


def pruning(name):
    """An option of the trainer of the prune stage."""

    def read(context):
        student = torch.nn.Linear(2, 2)
        made = replaced(
            prune,
            "distilling_trainer",
            named,
            lambda: prune.pruning_trainer(context, student, "outputs", "method", "prune", end=0.4),
        )
        return made.get(name, {one.requires_grad for one in student.parameters()})

    return read


def recovery(*names):
    """Options of the trainer of the recover stage."""

    def read(context):
        made = replaced(
            recover,
            "distilling_trainer",
            named,
            lambda: recover.recovery_trainer(context, "model", "recover", 0.4, moments=lambda: "moments"),
        )
        return tuple(made[name] for name in names)

    return read


def option_of_trainer(name):
    """An option of `PruningTrainer` in a stage with a teacher."""

    def read(context):
        made = {}

        def trainer(*_, **options):
            made.update(options)
            return SimpleNamespace(remove_callback=print, callback_handler=SimpleNamespace(callbacks=[]))

        def call():
            rate = {"learning_rate": 1e-3}
            stage_trainer.distilling_trainer(context, "model", "prune", 9, teacher="teacher", objective=[], **rate)

        replaced(stage_trainer, "PruningTrainer", trainer, call)
        return made[name]

    return read


def smoothing_of_teacher(context):
    """The label smoothing with which a teacher is trained."""
    setting = SimpleNamespace(steps=9, learning_rate=1e-3)
    call = lambda: teacher._trainer(context, "model", "teacher", setting, [])  # noqa: E731
    (labels,) = replaced(teacher, "stage_trainer", named, call)["objective"]
    return labels.smoothing


def method_of(context):
    return new_method(context.recipe, model_of(context), None)


def ramp(context):
    schedule = schedule_of(context.recipe, 0.05)
    return pytest.approx(schedule.begin), pytest.approx(schedule.end)


def only_round(context):
    return coarse_rounds(context.recipe)[0]


def measured(name):
    """An argument by which a latency table is measured."""

    def read(context):
        call = lambda: measured_table(context.recipe.target, SimpleNamespace(), (8, 128))  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, "part_of", lambda model, timed, beams: (timed, beams))
            return replaced(target, "measure_latency", named, call)[name]

    return read


def loaded_table(context):
    """The file that the latency table is loaded from, None if it is measured."""
    table = SimpleNamespace(load=lambda path, **_: path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "measured_table", lambda *_: None)
        patch.setattr(target, "LatencyTable", table)
        patch.setattr(target, "_usable", lambda table, path: table)
        return latency_table(context, SimpleNamespace())


def share_of_time(context):
    """The milliseconds of which a share of the latency table is asked for."""
    return share_to_keep(context.recipe, SimpleNamespace(budget=SimpleNamespace(share_of=lambda *asked: asked)))


def factorised(context):
    """The rank of the word embeddings, and whether their rows are weighted; None if they stay as they are."""

    def factorise(model, rank, counts):
        return rank, counts is not None

    made = replaced(models, "factorise", factorise, lambda: models.shaped(context, model_of(context)))
    return made if isinstance(made, tuple) else None


def weights_of_teacher(context):
    """Whether the student starts with the weights of another teacher than its model."""
    other = model_of(context)
    torch.nn.init.ones_(other.classifier.weight)
    return bool((models.new_student(context, other).classifier.weight == 1).all())


def pieces(context):
    return len(context.data.tokenizer)


def limit_of_cache(context):
    def decide(nbytes, limit_gb, free):
        return output_cache.Decision(False, why=limit_gb)

    return replaced(output_cache, "decide", decide, lambda: output_cache._made(context)).why


def scored_on_the_way(context):
    """The number of a thousand training rows that are scored while the model is pruned."""
    data = SimpleNamespace(recipe=context.recipe, task=SimpleNamespace(splits={"train": range(1000)}))
    return RampRows(data).count


def called(*arguments, **named):
    raise Called(arguments, named)


def timed(context):
    """The shapes whose latencies are measured, and how often."""
    model = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")
    scored = SimpleNamespace(model=model, teacher=model)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Called) as call:
        patch.setattr(measure, "grid", called)
        measure._times(context, scored)
    arguments, other = call.value.args
    return arguments[-1], other["repeats"]


def stored(context):
    """How the weights of the result are written."""
    small = SimpleNamespace(config=SimpleNamespace(problem_type=None))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Called) as call:
        patch.setattr(recover, "problem_type_to_save", lambda *_: None)
        patch.setattr(recover, "as_stored", called)
        recover.save_result(context, small)
    return call.value.args[1]


def longest(context):
    return max(len(row["input_ids"]) for row in context.data.validation_rows)


ENDS = [
    End("model", "encoder", lambda c: Path(models.base_model(c).config.name_or_path).name, "encoder"),
    End("teacher", "t", models.teacher_name, "t"),
    End("seed", 7, argument("seed", "data_seed"), (7, 7)),
    End("seed", 7, recovery("seed"), (8,)),
    *(
        End(f"data.{name}", OTHER[f"data.{name}"], opened(name), OTHER[f"data.{name}"])
        for name in ("source", "task", "text", "label", "labels", "evaluation", "pooling", "metric", "rows", "options")
    ),
    End("data.tuning_rows", 3, lambda c: len(c.data.task.splits["train"]) - len(c.data.train_rows), 3),
    End("data.max_length", 4, longest, 4),
    End("method.name", "magnitude", lambda c: type(method_of(c)).__name__, "Magnitude"),
    End("method.options", {"beta": 0.9}, lambda c: method_of(c).beta, 0.9),
    End("target.units", ("head", "ffn"), lambda c: space_of(c.recipe, model_of(c), None).units, ("head", "ffn")),
    End("target.round_to", 8, lambda c: space_of(c.recipe, model_of(c), None).round_to, 8),
    End("target.keep", 12, lambda c: space_of(c.recipe, model_of(c), None).budget.name, "units"),
    End("target.density", 0.3, lambda c: share_to_keep(c.recipe, None), 0.3),
    End("target.latency", 5.0, share_of_time, (5.0, None), {"target.density": None}, alone=True),
    End("target.speedup", 2.0, share_of_time, (None, 2.0), {"target.density": None}, alone=True),
    End("target.toward", 0.01, lambda c: schedule_of(c.recipe, 0.05).stop, 0.01),
    End(
        "target.uniform",
        True,
        lambda c: type(counted(c.recipe.target)).__name__,
        "UniformParameters",
        {"target.units": ("head", "ffn")},
    ),
    End(
        "target.layers",
        1,
        lambda c: [one.keep for one in coarse_rounds(c.recipe)],
        [1],
        LAYERS | {"target.layers": 2},
    ),
    End("target.layer_rule", "spread", lambda c: only_round(c).spread, True, LAYERS),
    End("target.shape", (2, 16), lambda c: (measured("batch")(c), measured("tokens")(c)), (2, 16), TIMED),
    End("target.timed", "generation", measured("part"), ("generation", 1), TIMED),
    End("target.beams", 4, measured("part"), (None, 4), TIMED),
    End("target.beams", 4, measured("beams"), 4, TIMED),
    End("target.latency_table", "table.json", loaded_table, "table.json", TIMED),
    End("target.embedding_rank", 4, factorised, (4, True)),
    End("target.embedding_svd", "plain", factorised, (4, False), RANK),
    End("vocabulary.pieces", "task", lambda c: type(c.data), VocabularyData),
    End("vocabulary.min_count", 1000, pieces, 4, TASK_PIECES),
    End("distillation.start", "model", weights_of_teacher, False),
    End("distillation.temperature", 1.0, term("logits", "temperature"), 1.0),
    End("distillation.divergence", True, term("logits", "divergence"), True),
    End("distillation.logits_weight", 0.5, term("logits", "weight"), 0.5),
    End("distillation.logits_weight", 0, term("logits", "weight"), None),
    End("distillation.hidden", (1, 2), term("hidden", "layers"), (1, 2)),
    End("distillation.hidden", None, term("hidden", "layers"), None),
    End("distillation.match", "windows", term("hidden", "match"), "windows"),
    End("distillation.hidden_projection", False, term("hidden", "project"), False),
    End("distillation.hidden_weight", 0.5, term("hidden", "weight"), 0.5),
    *(
        End(f"distillation.{name}", value, term(f"hidden_{stack}", attribute, two_stacks=True), value)
        for stack in ("encoder", "decoder")
        for name, attribute, value in (
            ("hidden", "layers", (1, 2)),
            ("match", "match", "nearest"),
            ("hidden_projection", "project", False),
            ("hidden_weight", "weight", 0.5),
        )
    ),
    End("distillation.hidden_of", "decoder", terms_of_two_stacks, ["logits", "hidden_decoder"]),
    End("distillation.hidden_of", "encoder", terms_of_two_stacks, ["logits", "hidden_encoder"]),
    End("distillation.labels_weight", 0.25, term("labels", "weight"), 0.25),
    End("distillation.label_smoothing", 0.1, term("labels", "smoothing"), 0.1, {"distillation.labels_weight": 1.0}),
    End("distillation.label_smoothing", 0.1, smoothing_of_teacher, 0.1),
    End("distillation.terms", {"similarity": {"weight": 0.5}}, term("similarity", "weight"), 0.5),
    End("distillation.cache", False, lambda c: output_cache._made(c).why, "distillation.cache is false"),
    End("distillation.cache_gb", 1.0, limit_of_cache, 1.0, {}),
    End("training.steps", 70, steps_of_run, 70.0),
    End("training.epochs", 2.0, steps_of_run, 2.0, {"training.steps": None, "training.batch_size": 36}, alone=True),
    End("method.begin", 0.05, ramp, (0.05, 0.15)),
    End("method.end", 0.5, ramp, (0.02, 0.5)),
    End("method.ramp", 0.5, ramp, (0.02, 0.085)),
    End("method.layer_round", 0.4, lambda c: last_round(c.recipe), 0.4, LAYERS),
    End("method.layer_round", 0.4, ramp, (0.412, 0.49), LAYERS),
    End(
        "method.layer_round",
        0.4,
        lambda c: (only_round(c).end, only_round(c).recovered),
        (pytest.approx(0.06), 0.4),
        LAYERS,
    ),
    End("method.trial", 0.2, steps_of_trial, 600),
    End("method.trial_rows", 5, lambda c: c.data.trial_count, 5),
    End("method.ramp_rows", 80, scored_on_the_way, 80),
    End("method.train", "scores", pruning("shrink"), False),
    End("method.train", "scores", pruning("requires_grad"), {False}),
    End("method.shrink", False, pruning("shrink"), False),
    End("method.refit", True, pruning("refit"), True),
    End("training.batch_size", 8, argument("per_device_train_batch_size", "per_device_eval_batch_size"), (8, 16)),
    End("training.accumulate", 2, argument("gradient_accumulation_steps"), 2),
    End("training.learning_rate", 1e-5, learning_rate_of_run, 1e-5),
    End("training.learning_rate", 1e-5, pruning("learning_rate"), 1e-5),
    End("training.learning_rate", 1e-5, recovery("learning_rate", "constant"), (1e-5, False)),
    End("training.decay", "stage", pruning("decay"), (0.0, 1.0), {"training.recover_learning_rate": 1e-6}, alone=True),
    End("training.decay", "round", lambda c: restarts(c.recipe), (0.5,), LAYERS),
    End(
        "training.recover_learning_rate",
        1e-6,
        recovery("learning_rate", "constant", "decay", "moments"),
        (1e-6, True, (0.0, 1.0), None),
        {"training.decay": "stage"},
        alone=True,
    ),
    End(
        "training.recover_learning_rate",
        1e-6,
        recovery("learning_rate", "constant", "decay", "restarts", "moments"),
        (1e-6, False, (0.0, 1.0), (), None),
        {**LAYERS, "training.decay": "round"},
    ),
    End("training.warmup", 0.0, argument("warmup_steps"), 0.0),
    End("training.weight_decay", 0.0, argument("weight_decay"), 0.0),
    End("training.average", 0.5, recovery("average"), (0.5,)),
    End("training.augment", 2, lambda c: len(c.data.distillation_rows) / len(c.data.train_rows), 3.0),
    End("training.freeze_embeddings", "all", frozen, EMBEDDINGS),
    End("training.freeze_embeddings", False, frozen, set()),
    End("training.dropout", None, dropout, {0.1}),
    End("training.dropout", 0.2, dropout, {0.2}),
    End("training.bf16", True, argument("bf16"), True),
    End("training.cuda_graphs", False, option_of_trainer("cuda_graphs"), False),
    End("training.evaluations", 3, argument("eval_strategy", "eval_steps"), ("steps", 34)),
    End("training.evaluations", 0, argument("eval_strategy"), "no"),
    End("training.evaluation_rows", 2, lambda c: len(c.data.eval_rows), 2),
    End("training.select", 5, lambda c: len(c.data.eval_rows), 5),
    End("training.select", 5, option_of_trainer("select"), "accuracy"),
    End("training.checkpoints", 3, argument("save_strategy", "save_steps"), ("steps", 34)),
    End("training.checkpoints", 0, argument("save_strategy"), "no"),
    End("training.report_to", ("tensorboard",), argument("report_to"), ["tensorboard"]),
    End("training.teacher_epochs", 1.0, steps_of_teacher, 1),
    End("training.teacher_learning_rate", 1e-4, first_teacher_rate, 1e-4),
    End("storage.dtype", "bf16", stored, {"dtype": "bf16", "embeddings": "fp32"}),
    End("storage.embeddings", "int8", stored, {"dtype": "fp32", "embeddings": "int8"}),
    End("measurement.shapes", ((2, 16),), timed, (((2, 16),), 50)),
    End("measurement.repeats", 5, timed, (((1, 32), (8, 128)), 5)),
]
ELSEWHERE = {
    "target.output_dim": "run/test_embedding_run.py",
    "target.size": "run/test_size_goal.py",
    "target.keep_score": "run/test_keep_score.py",
    "vocabulary.texts": "run/test_vocabulary_data.py",
    "distillation.check_teacher": "run/test_teacher_check.py",
    "training.minutes": "run/test_length_of_run.py",
    "training.teacher_steps": "run/test_teacher_search.py",
    "measurement.retention": "report/test_verdict.py",
    "measurement.baselines": "run/test_baseline_runs.py",
    "card.model_id": "report/test_model_card.py",
    "card.base_model": "report/test_model_card.py",
    "card.dataset": "report/test_model_card.py",
}
"""Key -> the file of tests in which it shows."""


@pytest.mark.parametrize("end", [pytest.param(end, id=f"{end.key}-{number}") for number, end in enumerate(ENDS)])
def test_a_key_of_a_recipe_arrives_where_it_is_used(end, world):
    assert end.read(context_of(world, end.beside | {end.key: end.value})) == end.expected
    assert end.read(context_of(world, {} if end.alone else end.beside)) != end.expected


def test_every_key_has_an_end():
    assert {end.key for end in ENDS} | ELSEWHERE.keys() == set(recipe.KEYS)
    for key, file in ELSEWHERE.items():
        assert key.rpartition(".")[2] in (Path(__file__).parents[1] / file).read_text(encoding="utf-8"), key
