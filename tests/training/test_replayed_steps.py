"""Steps that are recorded once and replayed train as steps that run each time.

Without a GPU the operations of a step are recorded by a tracer: as with a CUDA graph, what Python decides is decided
once, tensors are read and written where they were, and nothing is computed while recording.
"""

from types import SimpleNamespace

import pytest
import torch
import transformers.masking_utils
from quiet import arguments
from tiny_models import tiny
from tiny_training import collate, examples, pairs, terms
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.schedules import cubic
from secateur.training import replayed_steps, trainer
from secateur.training.objectives import Contrastive, Hidden, Labels, Logits, MarginMSE, Term
from secateur.training.replayed_steps import replayable
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.tensor_trees import copied
from secateur.training.trainer import PruningTrainer

STEPS = 8
INPUTS = ("input_ids", "attention_mask")


class Traced:
    """Stands for `Capture`: records the operations of a computation on the CPU, and leaves no trace of recording."""

    def __init__(self, parameters):
        self.parameters, self.count = parameters, 0

    def __call__(self, compute):
        self.count += 1
        held = [(weight.grad, weight.grad.clone()) for weight in self.parameters() if weight.grad is not None]
        random = torch.get_rng_state()
        recorded = []

        def traced():
            recorded.append(compute())
            return tensors_of(recorded[0])

        with pytest.MonkeyPatch.context() as patch:  # transformers asks the driver whether a stream is recorded
            patch.setattr(transformers.masking_utils, "is_tracing", lambda *tensors: True)
            program = make_fx(traced)()
        torch.set_rng_state(random)
        for gradient, before in held:
            gradient.copy_(before)
        values = copied(recorded[0])

        @torch.no_grad()
        def replay():
            for place, value in zip(tensors_of(values), program(), strict=True):
                place.copy_(value)

        return replay, values


def padded_batch(rows):
    return {
        name: torch.nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True)
        for name in INPUTS
    }


def tensors_of(values):
    others = [value for value in (values.evidence, values.of_masks) if value is not None]
    return [*values.terms.values(), *others]


class Trained:
    """A trainer of a tiny model, which replays its steps or not."""

    def __init__(
        self,
        folder,
        *,
        which=("bert",),
        kind="grain",
        teacher=None,
        rows=None,
        more=(),
        of=PruningTrainer,
        refit=False,
        **arguments_,
    ):
        student = tiny(*which, dtype=torch.float32, dropout=0.1, seed=1)
        space = Space(student, "ffn", "qk", "vo")
        rows = rows or examples(student.config.is_encoder_decoder)
        self.trainer = of(
            student,
            method=kind and METHODS.get(kind)(space, cubic(1.0, 0.4, begin=0.2, end=0.6)),
            teacher=teacher or tiny(*which, dtype=torch.float32, seed=2),
            objective=[*terms(student, project=True), *more],
            args=arguments(folder, STEPS, remove_unused_columns=False, **arguments_),
            train_dataset=rows,
            data_collator=collate,
            shrink=True,
            refit=refit,
        )

    def replay(self, monkeypatch):
        """Let it replay its steps; returns what records them."""
        capture = Traced(lambda: [*self.trainer.model.parameters(), *self.trainer.terms.parameters()])
        monkeypatch.setattr(replayed_steps, "Capture", lambda: capture)
        self.trainer.replayed.enabled = True
        return capture

    def result(self):
        """Weights, masks and projections, and the state of the method, after training."""
        self.trainer.train()
        parts = {"model": self.trainer.model, "own": self.trainer.own_state}
        states = {f"{part}.{name}": value for part in parts for name, value in parts[part].state_dict().items()}
        return {name: value for name, value in states.items() if torch.is_tensor(value)}


def assert_same(monkeypatch, folder, **options):
    expected = Trained(folder, **options).result()
    training = Trained(folder, **options)
    capture = training.replay(monkeypatch)
    torch.testing.assert_close(training.result(), expected, rtol=1e-5, atol=1e-6)
    assert capture.count


@pytest.mark.parametrize("kind", ["grain", "cofi", "movement", None])
def test_a_replayed_training_is_the_training(monkeypatch, tmp_path, kind):
    """With masks that follow a schedule, that are sampled from gates, that are learned scores, and without masks."""
    assert_same(monkeypatch, tmp_path, kind=kind)


def test_steps_that_gather_moments_for_the_refit_run_without_graphs(monkeypatch, tmp_path):
    assert_same(monkeypatch, tmp_path, kind="grain", refit=True)


def test_micro_batches_of_a_step_are_replayed_one_by_one(monkeypatch, tmp_path):
    assert_same(monkeypatch, tmp_path, kind="cofi", max_steps=4, gradient_accumulation_steps=2)


def test_the_outputs_of_a_cached_teacher_are_read_for_every_batch(monkeypatch, tmp_path):
    rows = [{**row, "index": torch.tensor(number)} for number, row in enumerate(examples())]
    plain = [{name: row[name][: int(row["attention_mask"].sum())].tolist() for name in INPUTS} for row in rows]
    teacher = CachedTeacher.of(
        tiny("bert", dtype=torch.float32, seed=2), plain, padded_batch, tmp_path / "cache", layers=(0, 1, 2)
    )
    options = {"label_names": ["labels", "index"]}
    assert_same(monkeypatch, tmp_path, kind=None, teacher=teacher, rows=rows, **options)


def test_a_decoder_is_replayed(monkeypatch, tmp_path):
    assert_same(monkeypatch, tmp_path, which=("t5",), kind=None)


@pytest.mark.parametrize("kind", ["grain", None])
def test_the_examples_of_each_batch_are_those_of_its_rows(monkeypatch, tmp_path, kind):
    options = {"label_names": ["index"], "train_sampling_strategy": "group_by_length"}
    assert_same(
        monkeypatch, tmp_path, which=("bert", "Sentence"), kind=kind, rows=pairs(), more=[Contrastive()], **options
    )


def test_only_so_many_shapes_are_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(replayed_steps, "MOST_GRAPHS", 0)
    expected = Trained(tmp_path, kind=None).result()
    training = Trained(tmp_path, kind=None)
    capture = training.replay(monkeypatch)
    torch.testing.assert_close(training.result(), expected, rtol=0, atol=0)
    assert capture.count == 0


def test_a_step_that_cannot_be_recorded_runs_as_without_graphs(monkeypatch, tmp_path, caplog):
    def refuse(compute):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    expected = Trained(tmp_path, kind=None).result()
    training = Trained(tmp_path, kind=None)
    training.replay(monkeypatch)
    monkeypatch.setattr(replayed_steps, "Capture", lambda: refuse)
    torch.testing.assert_close(training.result(), expected, rtol=0, atol=0)
    assert not training.trainer.replayed.enabled
    assert "without CUDA graphs, which cannot record them: operation not permitted" in caplog.text


# When steps can be replayed


class Host(Term):
    """A term of one's own, of which nothing is known."""

    name = "host"


class OwnLoss(PruningTrainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(("of", "expected"), [(PruningTrainer, True), (OwnLoss, False)])
def test_a_loss_of_ones_own_is_computed_in_every_step(monkeypatch, tmp_path, of, expected):
    monkeypatch.setattr(trainer, "replayable", lambda *given: True)
    assert Trained(tmp_path, kind=None, of=of).trainer.replayed.enabled == expected


def test_weights_that_a_callback_freezes_are_not_replayed_as_before(monkeypatch, tmp_path):
    class Freeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 5:
                model.bert.encoder.layer[0].requires_grad_(False)

    results = []
    for replayed in (False, True):
        training = Trained(tmp_path, kind=None, weight_decay=0.0)
        training.trainer.add_callback(Freeze())
        if replayed:
            assert training.replay(monkeypatch).count == 0
        results.append(training.result())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("expected", "changed", "term"),
    [
        (True, {}, Logits()),
        (True, {}, Hidden(match="nearest")),
        (True, {}, Contrastive()),
        (True, {}, MarginMSE()),
        (False, {}, Hidden(match="windows")),
        (False, {}, Host()),
        (False, {"device": torch.device("cpu")}, Logits()),
        (False, {"fp16": True}, Logits()),
        (False, {"gradient_checkpointing": True}, Logits()),
        (False, {"torch_compile": True}, Logits()),
        (False, {"optim": "schedule_free_adamw"}, Logits()),
    ],
)
def test_steps_are_replayed_where_they_can_be(expected, changed, term):
    on_gpu = {"device": torch.device("cuda"), "fp16": False, "gradient_checkpointing": False, "torch_compile": False}
    on_gpu["optim"] = "adamw_torch_fused"
    one_process = SimpleNamespace(num_processes=1)
    assert replayable(SimpleNamespace(**{**on_gpu, **changed}), one_process, [Labels(), term]) == expected
    assert not replayable(SimpleNamespace(**on_gpu), SimpleNamespace(num_processes=2), [Labels()])


def test_terms_that_keep_steps_from_being_replayed_are_named(caplog):
    caplog.set_level("INFO", logger="secateur")
    args = {"fp16": False, "gradient_checkpointing": False, "torch_compile": False, "optim": "adamw_torch_fused"}
    one_process = SimpleNamespace(num_processes=1)
    assert not replayable(SimpleNamespace(device=torch.device("cpu"), **args), one_process, [Host()])
    assert not caplog.messages
    assert not replayable(SimpleNamespace(device=torch.device("cuda"), **args), one_process, [Labels(), Host()])
    assert caplog.messages == ["training steps run without CUDA graphs, which the loss terms host do not allow"]
