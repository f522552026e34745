"""The evidence that a method observes: signed, of a whole step, of the terms that the method names."""

from types import SimpleNamespace

import pytest
import tiny_training
import torch

from secateur.system.errors import UserError
from secateur.training.evidence import Evidence, heard
from secateur.training.objectives import Contrastive, Hidden, Labels, Logits


class Observing:
    """Stands for a method that observes two terms, one with a negative weight."""

    listens_to = {"labels": 1.0, "logits": -2.0, "hidden": 0.0}

    def __init__(self):
        self.observed = []

    def observe(self, gradient):
        self.observed.append(gradient)


def evidence(method, terms=("labels", "logits", "hidden", "mine"), cut=False):
    own = [SimpleNamespace(name=name, heard_as=None) for name in terms]
    return Evidence(method, SimpleNamespace(watch=lambda name, value: None), own, cut=cut)


def test_evidence_is_the_signed_gradient_of_the_whole_step():
    method = Observing()
    collected = evidence(method)
    for factor in (1.0, 3.0):
        masks = torch.ones(2, requires_grad=True)
        loss = factor * masks
        values = {"labels": loss[0], "logits": loss[1], "hidden": loss.sum(), "mine": loss.sum()}
        collected.add(collected.gradient(values, masks, micro_batches=2))
    collected.hand_over(lambda gradient: gradient)
    assert [gradient.tolist() for gradient in method.observed] == [[2.0, -4.0]]
    collected.hand_over(lambda gradient: gradient)
    assert len(method.observed) == 1, "the next step begins without evidence"


def test_terms_that_read_no_mask_are_no_evidence_where_the_model_is_cut():
    masks, elsewhere = torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True)
    with pytest.raises(RuntimeError, match="have been used"):
        evidence(Observing(), ["labels"]).gradient({"labels": elsewhere * 2}, masks, micro_batches=1)
    gradient = evidence(Observing(), ["labels"], cut=True).gradient({"labels": elsewhere * 2}, masks, micro_batches=1)
    assert gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", [None, Observing()])
def test_without_masks_or_a_method_nothing_is_collected(method):
    masks = None if method else torch.ones(2, requires_grad=True)
    values = {"labels": torch.ones((), requires_grad=True) * 2}
    assert evidence(method, ["labels"]).gradient(values, masks, micro_batches=1) is None


STACKS = [Hidden(stack="encoder"), Hidden(stack="decoder")]


@pytest.mark.parametrize("terms", [[Hidden()], STACKS], ids=["one stack", "two stacks"])
def test_hidden_states_of_any_stack_are_observed_without_gradient_separation(terms):
    weights = {"labels": 1.0, "logits": 1.0, "hidden": 1.0}
    task = {"labels": 1.0, "logits": 1.0}
    assert heard(weights, [Labels(), Logits(), *terms]) == task | {term.name: 1.0 for term in terms}
    assert heard(weights | {"hidden": 0.0}, [Labels(), Logits(), *terms]) == task
    assert heard({"labels": 1.0}, [Contrastive(), *terms]) == {"contrastive": 1.0}


@pytest.mark.parametrize("terms", [[Hidden()], STACKS], ids=["one stack", "two stacks"])
def test_hidden_states_do_not_stand_for_the_task(terms):
    with pytest.raises(UserError, match="observes the gradient of the terms labels, logits, and the loss has only"):
        heard({"labels": 1.0, "logits": 1.0, "hidden": 0.0}, terms)


def test_importance_of_an_encoder_and_a_decoder_depends_on_gradient_separation(tmp_path):
    importance = []
    for separate in (True, False):
        options = {"separate": separate}
        trainer = tiny_training.trainer(("bart",), "grain", tmp_path, save="no", options=options)
        trainer.train()
        importance.append(trainer.method.importance.clone())
    assert not torch.allclose(*importance, rtol=0.1)
