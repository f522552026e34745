"""What the trainer refuses before it trains; more in `test_trainer.py`."""

import copy
from types import SimpleNamespace

import pytest
import tiny_training
import torch
from quiet import arguments
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.system.errors import UserError
from secateur.training import checks
from secateur.training.objectives import Hidden, Labels, Logits
from secateur.training.trainer import PruningTrainer


def test_rows_seen_need_an_order_by_length():
    args = SimpleNamespace(train_sampling_strategy="random")
    checks.check_order(args, 0)
    with pytest.raises(UserError, match="continues an order by length"):
        checks.check_order(args, 8)


def test_terms_of_one_name_are_refused(tmp_path):
    """All but the last of them would have no part in the loss."""
    terms = [Labels(), Hidden([1]), Hidden([2])]
    model, teacher = (tiny("bert", "ForSequenceClassification") for _ in range(2))
    with pytest.raises(UserError, match="several terms of the objective have the name 'hidden'"):
        PruningTrainer(model, teacher=teacher, objective=terms, args=arguments(tmp_path, 1))
    terms[2].name = "hidden_2"
    PruningTrainer(model, teacher=teacher, objective=terms, args=arguments(tmp_path, 1))


def test_one_term_is_an_objective_and_what_is_no_term_is_refused():
    term = Logits()
    assert checks.terms_of(term) == checks.terms_of((term,)) == [term]
    assert [type(one) for one in checks.terms_of(None)] == [Labels]
    for objective in (Logits, [Labels(), Hidden], [torch.nn.MSELoss()], print):
        with pytest.raises(UserError, match=r"objective has .* among its terms: give a list of terms"):
            checks.terms_of(objective)


@pytest.mark.parametrize("shared", ["", "classifier"])
def test_a_teacher_that_shares_weights_with_the_student_is_refused(tmp_path, shared):
    """They would be frozen as the teacher's, and the training would change nothing."""
    model = tiny("bert", "ForSequenceClassification")
    teacher = copy.deepcopy(model) if shared else model
    if shared:
        teacher.set_submodule(shared, model.get_submodule(shared))
    with pytest.raises(UserError, match=r"shares weights with the model.*copy\.deepcopy"):
        PruningTrainer(model, teacher=teacher, objective=[Logits()], args=arguments(tmp_path, 1))


def test_a_method_of_another_models_units_is_refused(tmp_path):
    """The other model may even have the same shapes."""
    model, other = (tiny("bert", "ForSequenceClassification") for _ in range(2))
    methods = [Grain(Space(own, "ffn"), cubic(1.0, 0.7, begin=0.2, end=0.4)) for own in (model, other)]
    PruningTrainer(model, method=methods[0], args=arguments(tmp_path, 1))
    with pytest.raises(UserError, match=r"units of another model.*Space\(model"):
        PruningTrainer(model, method=methods[1], args=arguments(tmp_path, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_16_bits_are_trained_in_float32_and_it_is_said(tmp_path, dtype, caplog):
    """As they come from a checkpoint in 16 bits, with a projection of hidden states in float32."""
    models = [tiny("bert", "ForSequenceClassification").to(dtype) for _ in range(2)]
    method = Grain(Space(models[0], "ffn"), cubic(1.0, 0.7, begin=0.2, end=0.4))
    rows = tiny_training.examples()[:8]
    with caplog.at_level("WARNING", "secateur"):
        trainer = PruningTrainer(
            models[0],
            method=method,
            teacher=models[1],
            objective=[Logits(temperature=4.0), Hidden(layers="every 1")],
            args=arguments(tmp_path, 1),
            train_dataset=rows,
            data_collator=tiny_training.collate,
        )
    trainer.train()
    name = str(dtype).removeprefix("torch.")
    assert [record.getMessage() for record in caplog.records] == [
        f"the {role} has weights in {name}: they are cast to float32, in which a training computes"
        for role in ("teacher", "model")
    ]
    assert {weight.dtype for model in models for weight in model.parameters()} == {torch.float32}
