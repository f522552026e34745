"""The evidence that a method observes: the gradient of the loss terms it names with respect to the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from secateur.methods.method import Method
from secateur.system.errors import UserError
from secateur.training.nonfinite import FiniteWatch
from secateur.training.step import OF_TASK, Term


def heard(weights: Mapping[str, float], terms: Iterable[Term]) -> dict[str, float]:
    """The terms that a method observes, by their names, with the weight of each that is not 0.

    A method names terms, such as `logits`. Others that are heard as one of these stand beside it or in its place; where
    the loss has none of them, those that stand for the task in any way are observed.

    Args:
        weights: by the names of terms; a term's own name goes before what it is heard as.

    Raises:
        UserError: the method observes gradients, and the loss has no term for it.
    """
    names = {term.name: term.heard_as for term in terms}
    found = {name: weights.get(name, weights.get(other or name, 0.0)) for name, other in names.items()}
    wanted = [name for name, weight in weights.items() if weight]
    if wanted and not any(found.values()):
        found = {name: float(other in OF_TASK) for name, other in names.items()}
    if wanted and not any(found.values()):
        raise UserError(
            f"the method observes the gradient of the terms {', '.join(wanted)}, and the loss has only "
            f"{', '.join(names) or 'none'}: add one of these terms, or choose a method that observes none"
        )
    return {name: weight for name, weight in found.items() if weight}


class Evidence:
    """Collects the gradient `(N,)` of one optimizer step, summed over its micro-batches, with its sign.

    Only activation gradients are computed for it: there is no second backward through the weights.

    Args:
        method: names the terms in `listens_to`, with the weight of each; None collects nothing.
        finite: inspects every gradient.
        terms: of the loss.
        cut: whether the model is cut while it is trained, so that a forward may read no mask at all.
    """

    def __init__(self, method: Method | None, finite: FiniteWatch, terms: Iterable[Term], *, cut: bool) -> None:
        self.method, self.finite, self.terms, self.cut = method, finite, tuple(terms), cut
        self._sum: Tensor | None = None

    def weights(self) -> Mapping[str, float]:
        """The terms that the method observes in this step, with their weights.

        Raises:
            UserError: it observes some, and the loss has none of them.
        """
        weights = self.method.listens_to if self.method is not None else {}
        return heard(weights, self.terms) if weights else {}

    def gradient(self, values: Mapping[str, Tensor], masks: Tensor | None, micro_batches: int) -> Tensor | None:
        """The gradient `(N,)` of a micro-batch; None if the method observes none.

        Args:
            values: the loss terms by name, `()` each.
            masks: `(N,)`, of the forward that computed them; None if the model is not masked.
            micro_batches: of the optimizer step.
        """
        loss = self._observed(values)
        if loss is None or masks is None:
            return None
        gradient = torch.autograd.grad(
            loss, masks, retain_graph=True, allow_unused=self.cut, materialize_grads=self.cut
        )[0]
        return gradient.float() / micro_batches

    def add(self, gradient: Tensor | None) -> None:
        """Add the gradient of a micro-batch."""
        if gradient is not None:
            self.finite.watch("the gradient of the masks", gradient)
            self._sum = gradient if self._sum is None else self._sum + gradient

    def clear(self) -> None:
        """Drop the gradients of a step that was not finished."""
        self._sum = None

    def hand_over(self, average: Callable[[Tensor], Tensor]) -> None:
        """Let the method observe the step's gradient, averaged over the processes, and begin the next step."""
        if self.method is not None and self._sum is not None:
            self.method.observe(average(self._sum))
        self.clear()

    def _observed(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The weighted sum of the terms that the method observes in this step; None if it observes none."""
        observed = [weight * values[name] for name, weight in self.weights().items()]
        return sum(observed[1:], start=observed[0]) if observed else None
