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
        self.gradient: Tensor | None = None

    def add(self, values: Mapping[str, Tensor], masks: Tensor | None, micro_batches: int) -> None:
        """Add a micro-batch.

        Args:
            values: the loss terms by name, `()` each.
            masks: `(N,)`, of the forward that computed them; None if the model is not masked.
            micro_batches: of the optimizer step.
        """
        loss = self._observed(values)
        if loss is None or masks is None:
            return
        gradient = torch.autograd.grad(
            loss, masks, retain_graph=True, allow_unused=self.cut, materialize_grads=self.cut
        )[0]
        gradient = gradient.float() / micro_batches
        self.finite.watch("the gradient of the masks", gradient)
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def hand_over(self, average: Callable[[Tensor], Tensor]) -> None:
        """Let the method observe the step's gradient, averaged over the processes, and begin the next step."""
        if self.method is not None and self.gradient is not None:
            self.method.observe(average(self.gradient))
        self.gradient = None

    def _observed(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The weighted sum of the terms that the method observes in this step; None if it observes none."""
        weights = self.method.listens_to if self.method is not None else {}
        observed = [weight * values[name] for name, weight in weights.items() if weight and name in values]
        return sum(observed[1:], start=observed[0]) if observed else None
