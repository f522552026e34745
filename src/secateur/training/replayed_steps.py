"""Training steps replayed as CUDA graphs: the forward and backward of a batch are launched as one.

A cut model is so small that a GPU computes a step faster than Python launches its kernels. The kernels of a step depend
only on the shapes of its batch, so they are recorded once for each shape and then replayed. Rows are batched by length,
and lengths are rounded up, so that few shapes occur. The first step of a shape runs as without graphs, and initialises
what the libraries create on first use.

What is recorded reads its inputs from, and adds its gradients to, memory that stays in place: a batch, the cached
outputs of a teacher, the examples of the rows, the masks. A method samples its masks and computes its penalty outside,
and the gradient of the masks is passed on to its own parameters there, so that every method can be used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainingArguments

from secateur.system.compat.capture import captured
from secateur.training.evidence import Evidence
from secateur.training.gradient_buffers import GradientBuffers
from secateur.training.loss import TermLoss
from secateur.training.masks import TrainingMasks
from secateur.training.optimizer import trained_by
from secateur.training.step import Term
from secateur.training.tensor_trees import copied, copy_into, shapes_of

log = logging.getLogger(__name__)

MOST_GRAPHS = 128
"""Shapes that are recorded; batches of any further shape run without a graph."""


@dataclass(frozen=True)
class StepValues:
    """What a micro-batch computes besides the gradients of the weights.

    Attributes:
        terms: the loss terms `()` by name, with their weights and shares.
        evidence: `(N,)`, the gradient that the method observes; None if it observes none.
        of_masks: `(N,)`, the gradient of the loss with respect to the masks, which the method's own parameters still
            need; None where no masks are attached, or where backward passed it on already.
    """

    terms: Mapping[str, Tensor]
    evidence: Tensor | None
    of_masks: Tensor | None = None


class Capture:
    """Records computations as CUDA graphs, which share their temporary memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], StepValues]) -> tuple[Callable[[], None], StepValues]:
        """As of `captured`."""
        return captured(compute, self._pool)


def replayable(args: TrainingArguments, accelerator: Accelerator, terms: Iterable[Term]) -> bool:
    """Whether the steps of a training can be replayed: on one GPU, with terms that allow it, or else it is logged.

    A scaler of fp16 and gradient checkpointing read values on the host within a step, and a schedule-free optimizer
    changes the weights before it.
    """
    possible = (
        args.device.type == "cuda"
        and accelerator.num_processes == 1
        and not (args.fp16 or args.gradient_checkpointing or args.torch_compile)
        and not str(args.optim).startswith("schedule_free")
    )
    others = [term.name for term in terms if not term.replayable]
    if possible and others:
        log.info("training steps run without CUDA graphs, which the loss terms %s do not allow", ", ".join(others))
    return possible and not others


@dataclass(frozen=True)
class _Recorded:
    """A recorded step: its inputs in their places, the function that replays it, and the values that it computes."""

    inputs: Mapping[str, Any]
    replay: Callable[[], None]
    values: StepValues


class ReplayedSteps:
    """The recorded steps of a training, by the shapes of their batches.

    Args:
        enabled: whether steps are replayed; else there is nothing to be recorded.
        backward: computes the gradients of a loss.
    """

    def __init__(
        self,
        enabled: bool,
        loss: TermLoss,
        masks: TrainingMasks,
        evidence: Evidence,
        backward: Callable[[Tensor], None],
    ) -> None:
        self.enabled = enabled
        self.loss, self.masks, self.evidence, self.backward = loss, masks, evidence, backward
        self.forget()

    def forget(self) -> None:
        """Drop everything recorded, because parameters were replaced."""
        self._recorded: dict[Any, _Recorded] = {}
        self._seen: set[Any] = set()
        self._gradients = GradientBuffers()
        self._capture: Capture | None = None

    def ran(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Note which parameters of an optimizer have a gradient after a step that ran without a graph."""
        self._gradients.include(trained_by(optimizer))

    def step(
        self,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        index: Tensor | None,
        shares: Mapping[str, Tensor] | None,
        micro_batches: int,
    ) -> StepValues | None:
        """Replay a micro-batch, and add to the gradients of all parameters; None if it must run without a graph.

        Args:
            model: the student, as it may be wrapped.
            batch: on the device.
            index: `(batch,)`, numbers of the rows, which a cached teacher and the examples need.
            shares: of the micro-batch, if the step has several.
            micro_batches: of the optimizer step.
        """
        batch = self.loss.with_decoder_inputs(batch)
        key = (shapes_of(batch), micro_batches, *self._settings(model))
        if key not in self._seen or (key not in self._recorded and len(self._recorded) >= MOST_GRAPHS):
            self._seen.add(key)
            return None
        sampled = self.masks.sample() if self.masks.attachment is not None else None
        inputs = {
            "batch": batch,
            "shares": shares,
            "taught": self.loss.cached_outputs(batch, index),
            "examples": self.loss.examples_of(index),
            "masks": None if sampled is None else sampled.detach(),
        }
        self._gradients.attach()
        if key in self._recorded:
            copy_into(self._recorded[key].inputs, inputs)
        elif (recorded := self._record(model, copied(inputs), micro_batches)) is not None:
            self._recorded[key] = recorded
        else:
            self.enabled = False
            return None
        self._recorded[key].replay()
        values: StepValues = copied(self._recorded[key].values)
        if sampled is not None and sampled.requires_grad and values.of_masks is not None:
            sampled.backward(values.of_masks)
        return values

    def _settings(self, model: nn.Module) -> Iterator[Any]:
        """What a recorded step takes as given and a callback may change: evidence, weights of terms, frozen weights."""
        yield tuple(sorted(self.evidence.weights().items()))
        yield tuple(term.weight for term in self.loss.terms)
        yield tuple(parameter.requires_grad for parameter in model.parameters())

    def _record(self, model: nn.Module, inputs: Mapping[str, Any], micro_batches: int) -> _Recorded | None:
        """Record the step of a batch; None, with a warning, if a model or a term does what cannot be recorded."""
        read = {name: inputs[name] for name in ("taught", "examples")}

        def compute() -> StepValues:
            with self.masks.fixed(inputs["masks"]):
                step = self.loss.step(model, inputs["batch"], attachment=self.masks.attachment, **read)
            terms = self.loss.values(step, inputs["shares"])
            evidence = self.evidence.gradient(terms, step.masks, micro_batches)
            self.backward(torch.stack([*terms.values()]).sum() / micro_batches)
            of_masks = None if step.masks is None else step.masks.grad
            return StepValues({name: value.detach() for name, value in terms.items()}, evidence, of_masks)

        self._capture = self._capture or Capture()
        try:
            replay, values = self._capture(compute)
        except RuntimeError as error:
            cause = str(error).partition("\n")[0]
            log.warning("training steps run without CUDA graphs, which cannot record them: %s", cause)
            return None
        return _Recorded(inputs, replay, values)
