"""The evidence that a method observes: signed, of a whole step, of the terms that the method names."""

from types import SimpleNamespace

import pytest
import torch

from secateur.training.evidence import Evidence


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
