"""Distillation of hidden states: the term `Hidden`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.methods.options import truth
from secateur.system.errors import UserError
from secateur.training.layer_matching import MATCHES, SAME, SAMPLES, at_same_depth, layer_numbers
from secateur.training.step import Step, Term, real_tokens
from secateur.training.terms import register

SHARED = "shared"
"""The name of the projection that all layers share where they are matched in each batch."""
STACKS = ("encoder", "decoder")
GATES = (".attention", ".mlp")
"""How the names of sublayers' gates end, of whatever layer and attention."""
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")
"""What a config may call the number of its decoder's layers; `num_hidden_layers` is its encoder's."""


@register("hidden")
class Hidden(Term):
    """Mean squared error of hidden states over real tokens, student through a projection, summed over matched layers.

    Projections are Linear with bias. They start as the identity, are trained, and are not part of the result (GRAIN
    section 5: layers 0, 2, 4, ... of student and teacher alike, 0 the embeddings' output; real tokens only; a sum over
    layers, not a mean).

    Args:
        layers: the teacher's layers: `"every 2"`, `"last"`, `"quarters"` (CoFi: the last of each quarter of the
            layers), or their numbers, 0 the embeddings.
        project: False compares the states without projections, which saves their time and needs residual streams of
            one width.
        match: which of the student's layers is compared with each of them: `same`, the one at the same relative depth,
            which is that of the same number where student and teacher are equally deep; or one of `MATCHES`, which
            choose again in each batch and share one projection.
        stack: for a model with an encoder and a decoder, which states are compared: the "encoder"'s, or the "decoder"'s
            over the target; the term is then called `hidden_encoder` or `hidden_decoder`.

    Raises:
        UserError: `match` or `stack` is not known, or `project` is no truth value.
    """

    name = "hidden"
    needs_teacher = True
    needs_hidden = True
    heard_as = "hidden"

    def __init__(
        self,
        layers: str | Sequence[int] = "every 2",
        weight: float = 1.0,
        project: bool = True,
        match: str = SAME,
        stack: str | None = None,
    ) -> None:
        super().__init__(weight)
        if stack is not None:
            if stack not in STACKS:
                raise UserError(f"stack {stack!r} is neither of {' and '.join(STACKS)}")
            self.name = f"hidden_{stack}"
        if match not in (SAME, *MATCHES):
            names = ", ".join((SAME, *MATCHES))
            raise UserError(f"match {match!r} is not a way to match layers: choose from {names}")
        self.layers, self.match, self.stack = layers, match, stack
        self.project = truth("project", project)
        self.replayable = match not in SAMPLES
        self.projections = nn.ModuleDict()
        self.width = 0  # dims of the student's residual stream before it is cut
        self.student_depth = 0  # layers of the student before it is cut
        self.depth = 0  # layers of the teacher
        self.counterparts: dict[str, int] = {}  # teacher's layer -> student's, where they are not matched in each batch
        self.own = slice(None)  # which of the model's layers are the stack's
        self.left: Tensor | None = None  # `(layers of the stack,)` bool once the student was cut

    def matched(self, depth: int) -> list[int]:
        """The teacher's layers that may be compared, of `depth`; all of them where they are sampled in each batch.

        Raises:
            UserError: the argument is none of the accepted forms, or a layer does not exist.
        """
        if self.match in SAMPLES:
            return list(range(1, depth + 1))
        return layer_numbers(self.layers, depth, first=0 if self.match == SAME else 1)

    def depth_of(self, config: Any) -> int:
        """The number of layers of the stack whose states are compared."""
        names = DECODER_LAYERS if self.stack == "decoder" else ()
        return next((getattr(config, name) for name in names if hasattr(config, name)), config.num_hidden_layers)

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        """Make the projections.

        Raises:
            UserError: layers that do not exist, widths that differ without projections, a stack that the model does
                not have, or no stack where it has two.
        """
        if self.projections or teacher is None:
            return
        self._check_stack(student)
        self.student_depth = depth = self.depth_of(student.config)
        self.depth = self.depth_of(teacher.config)
        self.own = slice(-depth, None) if self.stack == "decoder" else slice(depth)
        self.width, target = student.config.hidden_size, teacher.config.hidden_size
        if not self.project and self.width != target:
            raise UserError(
                f"the teacher's hidden states have {target} dims and the model's {self.width}, which cannot be "
                "compared without projections: leave these on (project, hidden_projection), or take a teacher of the "
                "model's width"
            )
        matched = self.matched(self.depth)
        if self.match == SAME:
            self.counterparts = {str(layer): at_same_depth(layer, depth, self.depth) for layer in matched}
        device = "cpu" if student.device.type == "meta" else student.device  # another process may have its weights
        for name in map(str, matched) if self.match == SAME else [SHARED]:
            self.projections[name] = _identity(self.width, target).to(device) if self.project else nn.Identity()

    def _check_stack(self, student: PreTrainedModel) -> None:
        if bool(getattr(student.config, "is_encoder_decoder", False)) != (self.stack is not None):
            raise UserError(
                'hidden states of an encoder and a decoder are two terms, stack="encoder" and stack="decoder"; a model '
                "of one stack has none to name"
            )

    def remark(self) -> str | None:
        """Which layers are compared, if the model has not as many as its teacher."""
        if not self.counterparts or self.student_depth == self.depth:
            return None
        return (
            f"{self.name}: the teacher has {self.depth} layers and the model {self.student_depth}, so that layers "
            f"{', '.join(self.counterparts)} of the teacher are compared with "
            f"{', '.join(map(str, self.counterparts.values()))} of the model, at the same relative depth"
        )

    @torch.no_grad()
    def restrict(self, dims: Tensor, layers: Tensor) -> None:
        """Cut the projections' inputs to the dims left; of what is matched in each batch, no layer that was removed.

        Layers of the same relative depth (`match="same"`) are still compared: a removed one is the identity.

        Args:
            dims: `(kept,)`, indices of the dims that the residual stream still has.
            layers: `(layers,)` bool, of all stacks: which are left.

        Raises:
            UserError: the residual stream was cut, and no projection leads back to the teacher's width.
        """
        self.left = layers[self.own]
        if not self.project and len(dims) < self.width:
            raise UserError(
                "hidden states of a cut residual stream need projections: leave them on, or do not prune hidden dims"
            )
        for projection in self.projections.values():
            if isinstance(projection, nn.Linear) and projection.in_features > len(dims):
                projection.weight = nn.Parameter(projection.weight[:, dims.to(projection.weight.device)].clone())
                projection.in_features = projection.weight.shape[1]

    def over(self, step: Step) -> str:
        return "labels" if self.stack == "decoder" else "tokens"

    def forward(self, step: Step) -> Tensor:
        real = real_tokens(step, self.stack == "decoder", like=self._states(step.student)[0]).unsqueeze(-1)
        if self.match != SAME:
            return self._matched_again(step, real)
        total = torch.zeros((), device=real.device)
        for layer, projection in self.projections.items():
            student = projection(self._states(step.student)[self.counterparts[layer]]).float()
            total = total + masked_mse(student, self._states(step.teacher)[int(layer)].float(), real)
        return total

    def _states(self, outputs: Any) -> Any:
        """Hidden states `(batch, tokens, dims)` by the number of their layer, 0 the embeddings."""
        return outputs.hidden_states if self.stack is None else getattr(outputs, f"{self.stack}_hidden_states")

    def _matched_again(self, step: Step, real: Tensor) -> Tensor:
        """Compares each of the teacher's layers with the student's layer chosen for it, without a wait for the device.

        Args:
            real: `(batch, tokens, 1)`.
        """
        student = torch.stack(self._states(step.student)[1:])  # (layers, batch, tokens, width)
        teacher = [self._states(step.teacher)[layer].float() for layer in self._layers_of_batch()]
        with torch.no_grad():
            projected = self.projections[SHARED](student).float()
            costs = torch.stack([torch.stack([masked_mse(s, t, real) for s in projected]) for t in teacher])
            exists = self._exists(step, len(student), costs.device)
        layers, matched = MATCHES[self.match](costs, exists)
        projected = self.projections[SHARED](student[layers]).float()
        errors = [masked_mse(s, t, real) for s, t in zip(projected, teacher, strict=True)]
        return (torch.stack(errors) * matched).sum()

    def _layers_of_batch(self) -> list[int]:
        """The teacher's layers for this batch; samples use torch's generator on the host, which checkpoints keep."""
        return SAMPLES[self.match](self.depth) if self.match in SAMPLES else self.matched(self.depth)

    def _exists(self, step: Step, depth: int, device: torch.device) -> Tensor:
        """`(depth,)` bool: the layers whose attention or feed-forward network is open in this forward."""
        if self.left is not None:
            self.left = self.left.to(device)  # once: a copy from the host cannot be recorded
            return self.left
        exists = torch.ones(depth, dtype=torch.bool, device=device)
        prefix = f"{self.stack}." if self.stack else ""
        for layer in range(depth):
            gates = [name for name in step.sites if name.startswith(f"{prefix}{layer}.") and name.endswith(GATES)]
            if gates:
                exists[layer] = torch.stack([step.sites[name] != 0 for name in gates]).any()
        return exists


def _identity(width: int, target: int) -> nn.Linear:
    projection = nn.Linear(width, target)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


def masked_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Squared error over real tokens, mean per entry, `()`; 0 without any.

    `student` and `teacher` are `(batch, tokens, dims)`, `real` is `(batch, tokens, 1)`, 0 or 1.
    """
    error = functional.mse_loss(student * real, teacher * real, reduction="sum")
    return error / (real.sum().clamp(min=1) * student.shape[-1])
