"""Terms of the loss: their values by hand, the layers that `Hidden` matches, and what the trainer refuses."""

import math
from types import SimpleNamespace

import pytest
import tiny_training
import torch
from quiet import arguments
from tiny_models import inputs, tiny
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from secateur.system.errors import UserError
from secateur.training.objectives import UNLABELLED, Hidden, Labels, Logits, Step, Term
from secateur.training.trainer import PruningTrainer


def says(logits, *hidden, **more):
    """A model's outputs: logits `(batch, labels)`, hidden states `(batch, tokens, dims)`."""
    return SimpleNamespace(
        logits=torch.tensor(logits), hidden_states=[torch.tensor(states) for states in hidden], **more
    )


# Labels and Logits


def test_labels_is_the_loss_of_the_model():
    loss = torch.tensor(0.25, requires_grad=True)
    assert Labels()(Step({}, says([[0.0]], loss=loss))) is loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "head"), [("bert", "ForTokenClassification"), ("llama", "ForCausalLM")])
def test_a_batch_without_labels_has_no_loss_and_no_gradient(kind, head, smoothing):
    """The first label of a row of a decoder, which no output predicts, is none."""
    model = tiny(kind, head, dtype=torch.float32).train()
    batch = inputs(model, padded=False)
    batch["labels"] = torch.full_like(batch["input_ids"], UNLABELLED)
    batch["labels"][:, 0] = 1 if kind == "llama" else UNLABELLED
    term = Labels(smoothing=smoothing)
    term.bind(model, None)
    value = term(Step(batch, model(**batch)))
    value.backward()
    assert value == 0
    assert all(not bool(weight.grad.any()) for weight in model.parameters() if weight.grad is not None)


def test_logits_without_a_real_token_have_no_loss():
    student = torch.randn(2, 4, 3, requires_grad=True)
    step = Step({"attention_mask": torch.zeros(2, 4)}, SimpleNamespace(logits=student), SimpleNamespace(logits=student))
    value = Logits()(step)
    value.backward()
    assert value == 0 and not bool(student.grad.any())


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4)], ids=["tokens", "answers"])
def test_without_a_mask_all_tokens_are_real(shape):
    """As of packed rows, of which no hidden states are asked for either."""
    student, teacher = (outputs_of(torch.randn(shape)) for _ in range(2))
    whole = {"attention_mask": torch.ones(2, 4, dtype=torch.long)}
    assert Logits()(Step({}, student, teacher)) == Logits()(Step(whole, student, teacher))


def outputs_of(logits):
    """Outputs of a model of tokens, or of one of answers."""
    if logits.dim() == 3:
        return SimpleNamespace(logits=logits)
    return SimpleNamespace(start_logits=logits, end_logits=2 * logits)


@pytest.mark.parametrize(("temperature", "loss"), [(8.0, 0.687327), (1.0, 0.432465)])
def test_logits_is_the_soft_cross_entropy_averaged_over_examples(temperature, loss):
    term = Logits(temperature)
    one = Step({}, says([[1.0, 0.0]]), says([[2.0, 0.0]]))
    assert term(one).item() == pytest.approx(loss, abs=1e-6)
    even = Step({}, says([[1.0, 0.0], [3.0, 3.0]]), says([[2.0, 0.0], [0.0, 9.0]]))
    assert term(even).item() == pytest.approx((loss + math.log(2)) / 2, abs=1e-6)


def test_logits_is_lowest_if_student_and_teacher_have_equal_outputs():
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    student = teacher.clone().requires_grad_()
    Logits(2.0)(Step({}, SimpleNamespace(logits=student), SimpleNamespace(logits=teacher))).backward()
    torch.testing.assert_close(student.grad, torch.zeros(6, 3))


@pytest.mark.parametrize("divergence", [False, True])
def test_logits_of_tokens_are_averaged_over_the_real_ones(divergence):
    noise = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 3, generator=noise)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    term = Logits(2.0, divergence=divergence)
    step = Step({"attention_mask": mask}, SimpleNamespace(logits=student), SimpleNamespace(logits=teacher))
    real = mask.bool()
    alone = Step({}, SimpleNamespace(logits=student[real]), SimpleNamespace(logits=teacher[real]))
    torch.testing.assert_close(term(step), term(alone))
    teacher[1, 1:] = 0.0  # as a cached teacher leaves them
    torch.testing.assert_close(term(step), term(alone))


def test_logits_of_a_regression_is_the_mean_squared_error():
    step = Step({}, says([[1.0], [2.0]]), says([[0.0], [5.0]]))
    assert Logits(8.0)(step).item() == Logits(1.0)(step).item() == (1 + 9) / 2


@pytest.mark.parametrize("kinds", [("regression", None), (None, "regression")])
def test_logits_of_a_regression_with_several_outputs_are_compared_as_numbers(kinds):
    """Whatever is added to all outputs of a row is a difference, which a softmax would not see."""
    term = Logits(temperature=8.0)
    term.bind(*(SimpleNamespace(config=SimpleNamespace(problem_type=kind)) for kind in kinds))
    student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 3.0, 5.0]])
    outputs = [SimpleNamespace(logits=logits) for logits in (student, teacher)]
    assert float(term(Step({"labels": torch.zeros(1, 3)}, *outputs))) == pytest.approx((1 + 1 + 4) / 3)


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "sigmoids"),
    [
        ("multi_label_classification", None, None, True),
        (None, "multi_label_classification", None, True),
        (None, None, torch.ones(1, 2), True),
        (None, None, torch.ones(1, dtype=torch.long), False),
        (None, None, None, False),
        ("single_label_classification", "multi_label_classification", None, False),
    ],
)
def test_logits_of_several_labels_have_sigmoids_whichever_model_or_row_says_so(student, teacher, labels, sigmoids):
    """With softmax the teacher's equal outputs are probabilities of 1/2, with sigmoids they are of 0.88."""
    term = Logits(temperature=1.0)
    term.bind(*(SimpleNamespace(config=SimpleNamespace(problem_type=kind)) for kind in (student, teacher)))
    step = Step({} if labels is None else {"labels": labels}, says([[0.0, 2.0]]), says([[2.0, 2.0]]))
    own = 1 / (1 + math.exp(-2.0))  # the sigmoid of 2
    softmax = -0.5 * (math.log(own) + math.log(1 - own))
    several = 0.5 * (math.log(2) - own * math.log(own) - (1 - own) * math.log(1 - own))
    assert term(step).item() == pytest.approx(several if sigmoids else softmax, abs=1e-6)


def test_logits_are_compared_in_single_precision():
    step = Step({}, *(SimpleNamespace(logits=torch.tensor([[v, 0.0]], dtype=torch.bfloat16)) for v in (1.0, 2.0)))
    assert Logits(8.0)(step).item() == pytest.approx(0.687327, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UserError, match="temperature"):
        Logits(temperature)


# What does not fit

NO_LABELS = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in tiny_training.examples()]


@pytest.mark.parametrize(
    ("head", "teacher", "objective", "rows", "message"),
    [
        (
            "ForSequenceClassification",
            {},
            None,
            NO_LABELS,
            "labels is the loss that the model computes, and it computes",
        ),
        ("ForSequenceClassification", {}, [Labels(smoothing=0.1)], NO_LABELS, "give it rows with labels"),
        ("Model", {}, None, NO_LABELS, "give it rows with labels and a head"),
        ("Model", {}, [Logits()], NO_LABELS, "the model returns no logits"),
        (
            "ForSequenceClassification",
            {"num_labels": 3},
            [Logits()],
            None,
            r"shapes are \(4, 2\) and \(4, 3\); take a teacher with the labels",
        ),
        (
            "ForSequenceClassification",
            {"hidden_size": 64},
            [Hidden(project=False)],
            None,
            "have 64 dims and the model's 32, which cannot be compared without projections",
        ),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(head, teacher, objective, rows, message, tmp_path):
    trainer = PruningTrainer(
        tiny("bert", head, dtype=torch.float32),
        teacher=tiny("bert", head, dtype=torch.float32, seed=2, **teacher),
        objective=objective,
        args=arguments(tmp_path, 1),
        train_dataset=rows or tiny_training.examples(),
        data_collator=tiny_training.collate,
    )
    with pytest.raises(UserError, match=message):
        trainer.train()


# The contract


def test_a_term_must_implement_forward():
    with pytest.raises(NotImplementedError, match="forward"):
        Term()(Step({}, None))


def test_terms_that_distil_need_a_teacher(tmp_path):
    config = BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1, intermediate_size=2, vocab_size=5)
    with pytest.raises(UserError, match="logits, hidden need a teacher"):
        PruningTrainer(
            BertForSequenceClassification(config),
            objective=[Labels(), Logits(), Hidden()],
            args=TrainingArguments(tmp_path, use_cpu=True),
        )


def test_smoothed_labels_of_a_decoder_are_those_of_the_next_token():
    """Without smoothing the loss is the model's own; with it a part of the loss of evenly spread labels is added."""
    model = tiny("llama", "ForCausalLM")
    batch = inputs(model)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    student = model(**batch, labels=labels)
    term = Labels(smoothing=0.25)
    term.bind(model, None)
    counted = labels[:, 1:] != -100
    spread = -student.logits[:, :-1].float().log_softmax(-1).mean(-1)[counted].mean()
    expected = 0.75 * student.loss + 0.25 * spread
    assert torch.allclose(term(Step({**batch, "labels": labels}, student)).double(), expected.double(), atol=1e-6)
