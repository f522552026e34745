"""The evidence that a method observes: the gradient of the loss terms it names with respect to the masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur.methods.method import Method
from secateur.training.nonfinite import FiniteWatch


class Evidence:
    """Collects the gradient `(N,)` of one optimizer step, summed over its micro-batches, with its sign.

    Only activation gradients are computed for it: there is no second backward through the weights.

    Args:
        method: names the terms in `listens_to`, with the weight of each; None collects nothing.
        finite: inspects every gradient.
        cut: whether the model is cut while it is trained, so that a forward may read no mask at all.
    """

    def __init__(self, method: Method | None, finite: FiniteWatch, *, cut: bool) -> None:
        self.method, self.finite, self.cut = method, finite, cut
        self._sum: Tensor | None = None

    def weights(self) -> Mapping[str, float]:
        """The terms that the method observes in this step, with their weights."""
        return self.method.listens_to if self.method is not None else {}

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

    def hand_over(self, average: Callable[[Tensor], Tensor]) -> None:
        """Let the method observe the step's gradient, averaged over the processes, and begin the next step."""
        if self.method is not None and self._sum is not None:
            self.method.observe(average(self._sum))
        self._sum = None

    def _observed(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The weighted sum of the terms that the method observes in this step; None if it observes none."""
        observed = [weight * values[name] for name, weight in self.weights().items() if weight and name in values]
        return sum(observed[1:], start=observed[0]) if observed else None
