"""The contract of a method.

A method turns evidence into masks and scores. It knows the space, never the model's family, the loss or the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.budget.units import best
from secateur.methods.schedules import Schedule, cubic
from secateur.structure.plan import Plan
from secateur.structure.space import Space
from secateur.system.errors import UserError


class Method(nn.Module):
    """Turns evidence into masks. A subclass writes `masks` and `scores`; the rest defaults to nothing.

    The state that must survive a restart is in buffers and parameters, and in what `get_extra_state` adds. `progress`
    in [0, 1] is the part of the whole run that is done, `steps` the number of optimizer steps.

    `alive` is `(N,)` bool: the units that may still be open. What has left it is gone for good: its mask is exactly 0
    in training, in evaluation and in the plan, it gets no gradient, and the trainer may cut its weights away. Who
    takes units from it is the method, in `advance`:

    - a monotone method whatever it removes, for its masks are `alive` itself;
    - one that learns its masks whatever has settled, by a rule of its own (until it has one, nothing). A gate or score
      is then read as minus infinity: sampled, it is closed; in a sum or a softmax it counts as 0; below every threshold
      and last in every rank. What it would have learned is not asked any more.
    """

    name: str
    alive: Tensor
    monotone = True
    """Whether a unit that the masks have closed never returns; if not, only `alive` says what is gone for good."""
    reads_weights = False
    """Whether scores are made from the weights of the whole model, which must then stay whole while it is trained."""
    defaults: Mapping[str, Any] = {}
    """Keys of a recipe that names this method, where the recipe says nothing and its own default would not do."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.progress, self.steps = 0.0, 0
        self.register_buffer("alive", space.ones().bool())

    @property
    def shrinks(self) -> bool:
        """Whether the model may be cut to what is alive while it is trained, as nobody misses the weights of the rest.

        A method that is not monotone and lets its masks settle says so itself.
        """
        return self.monotone and not self.reads_weights

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `defaults` of a recipe with these options."""
        return cls.defaults

    @property
    def fills(self) -> bool:
        """Whether the zeros between the tiles that are kept are filled when the model has been cut, to be trained."""
        return False

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """The paper's way down to a density, in the part of a run from `begin` to `end`."""
        return cubic(1.0, density, begin=begin, end=end)

    @property
    def listens_to(self) -> Mapping[str, float]:
        """Loss term -> weight of its gradient in `observe`; empty in a step in which nothing is to be heard.

        Read in every micro-batch; what it depends on changes in `advance` alone, so that a step is heard whole.
        """
        return {}

    def masks(self) -> Tensor:
        """`(N,)` in [0, 1]; deterministic when not training."""
        return self.alive.float()

    def observe(self, gradient: Tensor) -> None:
        """Take `(N,)` d(heard loss)/d(mask), signed, of one whole optimizer step, averaged over devices."""

    def advance(self, progress: float) -> None:
        """Move on after an optimizer step."""
        self.progress = progress
        self.steps += 1

    def penalty(self) -> Tensor | float:
        """`()` added to the loss."""
        return 0.0

    def scores(self) -> Tensor:
        """`(N,)`, larger = keep longer."""
        raise NotImplementedError(f"{type(self).__name__} must say which units to keep longer: write scores()")

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the method's own, as an optimizer takes them, with their own learning rates.

        A group with `constant: True` keeps its learning rate; the others follow the schedule of the run. Gradients are
        averaged over devices; a group with `clip: c` has its own clipped to a norm of at most c, the others are not.
        """
        return []

    def readings(self) -> dict[str, float]:
        """What a log line shows of the method, by name: the density of the masks, and the share of the space's cost."""
        share = {} if self.space.cost is None else {"share": self.space.share(self.alive)}
        return {"density": self.space.density(self.alive), **share}

    def settled(self) -> bool:
        """Whether the masks have arrived at the last density of the schedule: only then is a score worth comparing."""
        return True

    def chosen(self, density: float) -> Tensor:
        """`(N,)` final masks at a density; 0 removes. Dead units need not be closed."""
        masks = self.masks().detach()
        return masks * self.space.keep(self.scores(), density, alive=masks > 0)

    def exactly(self, count: int) -> Tensor:
        """`(N,)` final masks of so many units."""
        masks = self.masks().detach()
        return masks * best(self.space, self.scores(), count, alive=masks > 0)

    def get_extra_state(self) -> Tensor:
        """Numbers that the host needs at every step: kept off the device, so that reading them waits for nothing."""
        return torch.tensor([self.progress, self.steps], dtype=torch.double)

    def set_extra_state(self, state: Tensor) -> None:
        self.progress, self.steps = float(state[0]), int(state[1])

    def plan(self, density: float | None = None, embedding_rank: int | None = None, *, keep: int | None = None) -> Plan:
        """The frozen verdict at a density, or, where the space has a `cost`, at a share of it; not overridden.

        Args:
            keep: in place of the density, the number of units, which the plan has exactly: those that are there after
                the closure.

        Raises:
            UserError: both are given, or neither; the density cannot be reached with these units (the message
                names the floor), or the number of units not exactly.
        """
        if (density is None) == (keep is None):
            raise UserError("a plan is for a density or for a number of units: give one of density and keep")
        was_training = self.training
        self.eval()
        masks = self.chosen(density) if density is not None else self.exactly(cast(int, keep))
        self.train(was_training)
        return Plan.of(self.space, masks, method=self.name, asked=density, keep=keep, embedding_rank=embedding_rank)
