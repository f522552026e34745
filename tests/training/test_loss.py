"""The loss, term by term."""

import pytest
import torch
from tiny_models import tiny
from transformers import AutoModelForSequenceClassification

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.system.errors import UserError
from secateur.training.hidden_states import Hidden
from secateur.training.loss import TermLoss
from secateur.training.objectives import Labels, Logits, Term


def test_the_teacher_runs_only_for_terms_that_need_it():
    student = tiny("bert", dtype=torch.float32)
    rows = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2), "labels": torch.tensor([1])}
    alone = TermLoss([Labels()], student, student, ["labels"]).step(student, rows)
    taught = TermLoss([Labels(), Logits(2.0, weight=3.0)], student, student, ["labels"])
    step = taught.step(student, rows)
    assert alone.teacher is None and step.teacher is not None and step.teacher.loss is None
    values, halved = taught.values(step), taught.values(step, {"rows": torch.tensor(0.5), "labels": torch.tensor(0.25)})
    assert values["logits"].item() == pytest.approx(3 * Logits(2.0)(step).item())
    assert halved["logits"].item() == pytest.approx(values["logits"].item() / 2)
    assert halved["labels"].item() == pytest.approx(values["labels"].item() / 4)


def test_a_share_of_0_is_no_part_of_the_loss_whatever_its_value():
    """A term may average over nothing there."""
    student = tiny("bert", dtype=torch.float32)
    rows = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2), "labels": torch.tensor([1])}
    loss = TermLoss([Nothing(), Labels()], student, None, ["labels"])
    shares = {"rows": torch.tensor(1.0), "tokens": torch.tensor(0.0), "labels": torch.tensor(1.0)}
    values = loss.values(loss.step(student, rows), shares)
    assert values["nothing"] == 0 and values["labels"] > 0
    sum(values.values()).backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in student.parameters() if weight.grad is not None)


@pytest.mark.parametrize(("units", "fits"), [("hidden", False), ("layer", False), ("ffn", True)])
def test_what_a_cut_model_without_its_plan_does_not_say_is_refused(units, fits, tmp_path):
    """Else hidden states of 8 dims would be multiplied with projections of 16, or removed layers be matched."""
    teacher = tiny("bert", dtype=torch.float32)
    space = Space(teacher, units)
    masks = space.ones()
    masks[-1] = 0
    small = cut(teacher, Plan.of(space, masks))
    small.plan = None
    small.save_pretrained(tmp_path)
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert found.plan is None
    TermLoss([Labels(), Logits(2.0)], found, teacher, ["labels"]).bind(teacher)
    loss = TermLoss([Hidden()], found, teacher, ["labels"])
    if fits:
        loss.bind(teacher)
        return
    with pytest.raises(UserError, match=r"was cut and has no plan, by which hidden would .* its plan\.json"):
        loss.bind(teacher)


class Nothing(Term):
    """An average over no tokens."""

    name = "nothing"

    def over(self, step):
        return "tokens"

    def forward(self, step):
        return step.student.logits[:0].mean()
