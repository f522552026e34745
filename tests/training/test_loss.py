"""The loss, term by term."""

import pytest
import torch
from tiny_models import tiny

from secateur.training.loss import TermLoss
from secateur.training.objectives import Labels, Logits


def test_the_teacher_runs_only_for_terms_that_need_it():
    student = tiny("bert", dtype=torch.float32)
    rows = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2), "labels": torch.tensor([1])}
    alone = TermLoss([Labels()], student, student, ["labels"]).step(student, rows)
    taught = TermLoss([Labels(), Logits(2.0, weight=3.0)], student, student, ["labels"])
    step = taught.step(student, rows)
    assert alone.teacher is None and step.teacher is not None and step.teacher.loss is None
    values, halved = taught.values(step), taught.values(step, {"rows": 0.5, "labels": 0.25})
    assert values["logits"].item() == pytest.approx(3 * Logits(2.0)(step).item())
    assert halved["logits"].item() == pytest.approx(values["logits"].item() / 2)
    assert halved["labels"].item() == pytest.approx(values["labels"].item() / 4)
