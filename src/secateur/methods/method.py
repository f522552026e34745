"""The contract of a method.

A method turns evidence into masks and scores. It knows the space, never the model's family, the loss or the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.budget.units import best
from secateur.methods.schedules import Schedule, constant, cubic
from secateur.structure.plan import Plan
from secateur.system.errors import UserError
from secateur.system.moved import moved_names

Amount = Schedule | float
"""A share or a density, as a function of progress; a plain number is the final one, for use without training."""


class Method(nn.Module):
    """Turns evidence into masks. A subclass writes `masks` and `scores`; the rest defaults to nothing.

    Args:
        share: how much of the space's budget to keep, over the progress of the run; all of it by default.
        density: the share, under the name that it has where parameters are counted.

    Attributes:
        asked: the schedule of the share.

    Raises:
        UserError: both are given; the share is out of reach (the message names the floor); or the method cannot follow
            the budget of the space.

    The state that must survive a restart is in buffers and parameters, and in what `get_extra_state` adds. `progress`
    in [0, 1] is the part of the whole run that is done, `steps` the number of optimizer steps.

    `alive` is `(N,)` bool: the units that may still be open. A unit that has left it is gone for good: its mask is
    exactly 0 in training, in evaluation and in the plan, it gets no gradient, and the trainer may cut its weights away.
    The method itself takes units from it, in `advance`:

    - a monotone method takes every unit that it removes, because its masks are `alive`;
    - a method that learns its masks takes the units that have settled, by a rule of its own (without one, none). The
      gate or score of such a unit is then read as minus infinity: sampled, it is closed; in a sum or a softmax it
      counts as 0; it is below every threshold and last in every ranking.
    """

    name: str
    alive: Tensor
    budgets: tuple[str, ...] | None = None
    """Names of the budgets (`Budget.name`) that the method can follow; None for all."""
    monotone = True
    """Whether a unit that the masks have closed never returns; if not, only `alive` says what is gone for good."""
    reads_weights = False
    """Whether scores are made from the weights of the whole model, which must then stay whole while it is trained."""
    defaults: Mapping[str, Any] = {}
    """Values of recipe keys for this method, where the recipe names none and the general default does not fit."""

    def __init__(self, space: Space, share: Amount | None = None, density: Amount | None = None) -> None:
        super().__init__()
        self._check_budget(space)
        self.space = space
        self.asked = _asked(space, share, density)
        self.progress, self.steps = 0.0, 0
        self.register_buffer("alive", space.ones().bool())

    def _check_budget(self, space: Space) -> None:
        if self.budgets is not None and space.budget.name not in self.budgets:
            raise UserError(
                f"{type(self).__name__} follows a budget of {' or '.join(self.budgets)}, and this space counts "
                f"{space.budget.name}: ask for another budget, or choose another method"
            )

    @property
    def shrinks(self) -> bool:
        """Whether the model may be cut to the units that are alive while it is trained.

        A method that is not monotone but lets its masks settle overrides this.
        """
        return self.monotone and not self.reads_weights

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `defaults` of a recipe with these options."""
        return cls.defaults

    @property
    def fills(self) -> bool:
        """Whether the zeros between kept tiles become trainable weights once the model has been cut."""
        return False

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """The paper's schedule from 1 to a density (or share), in the part of a run from `begin` to `end`."""
        return cubic(1.0, density, begin=begin, end=end)

    @property
    def listens_to(self) -> Mapping[str, float]:
        """Loss term -> weight of its gradient in `observe`; empty in a step in which nothing is to be observed.

        Read in every micro-batch. What it depends on must change in `advance` alone, so that all micro-batches of a
        step are observed alike.
        """
        return {}

    def masks(self) -> Tensor:
        """`(N,)` in [0, 1]; deterministic when not training."""
        return self.alive.float()

    def where_alive(self, values: Tensor) -> Tensor:
        """Gates or scores `(N,)`, with minus infinity and no gradient for units that are not alive."""
        return values.masked_fill(~self.alive, -torch.inf)

    def observe(self, gradient: Tensor) -> None:
        """Take the gradient `(N,)` of the terms in `listens_to` with respect to the masks.

        It is signed, of one whole optimizer step, averaged over devices.
        """

    def advance(self, progress: float) -> None:
        """Move on after an optimizer step."""
        self.progress = progress
        self.steps += 1

    def penalty(self) -> Tensor | float:
        """`()` added to the loss."""
        return 0.0

    def scores(self) -> Tensor:
        """`(N,)`, larger = keep longer."""
        raise NotImplementedError(f"{type(self).__name__} must rank the units: write scores()")

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the method's own, as an optimizer takes them, with their own learning rates.

        A group with `constant: True` keeps its learning rate; the others follow the schedule of the run. Gradients are
        averaged over devices; a group with `clip: c` has its own clipped to a norm of at most c, the others are not.
        """
        return []

    def readings(self) -> dict[str, float]:
        """Numbers for the log, by name: the density of the masks, and their share of another budget."""
        other = {} if self.space.budget.name == Parameters.name else {"share": self.space.share(self.alive)}
        return {"density": self.space.density(self.alive), **other}

    def settled(self) -> bool:
        """Whether the masks have reached the last share of the schedule: only then do scores of a model compare."""
        return True

    def chosen(self, share: float) -> Tensor:
        """`(N,)` final masks within a share of the budget; 0 removes. Dead units need not be closed."""
        masks = self.masks().detach()
        return masks * self.space.choose(self.scores(), share, alive=masks > 0)

    def exactly(self, count: int) -> Tensor:
        """`(N,)` final masks of that many units."""
        masks = self.masks().detach()
        return masks * best(self.space, self.scores(), count, alive=masks > 0)

    def get_extra_state(self) -> Tensor:
        """Numbers that the host needs at every step: kept off the device, so that reading them does not synchronise."""
        return torch.tensor([self.progress, self.steps], dtype=torch.double)

    def set_extra_state(self, state: Tensor) -> None:
        self.progress, self.steps = float(state[0]), int(state[1])

    def plan(
        self,
        share: float | None = None,
        embedding_rank: int | None = None,
        *,
        density: float | None = None,
        keep: int | None = None,
    ) -> Plan:
        """The frozen plan within a share of the budget, or of an exact number of units; not overridden.

        Args:
            share: of the space's budget; the density where parameters are counted.
            embedding_rank: factorise the word embeddings to this rank when the plan is cut.
            density: the share, where parameters are counted.
            keep: the number of units that the plan has exactly, after closure, in place of a share.

        Raises:
            UserError: not exactly one of the three is given; the share cannot be reached with these units (the message
                names the floor); or the number of units cannot be kept exactly.
        """
        if [share, density, keep].count(None) != 2:
            raise UserError(
                "a plan is for a share, a density or a number of units: give one of share, density and keep"
            )
        asked = self.space.asked(share, density) if keep is None else None
        was_training = self.training
        self.eval()
        masks = self.chosen(asked) if asked is not None else self.exactly(cast(int, keep))
        self.train(was_training)
        budget = self.space.budget
        return Plan.of(
            self.space,
            masks,
            method=self.name,
            asked=asked if budget.name == Parameters.name else None,
            keep=keep,
            latency=budget.record(self.space, masks > 0, asked),
            embedding_rank=embedding_rank,
        )


def _asked(space: Space, share: Amount | None, density: Amount | None) -> Schedule:
    """The schedule that is asked for under one of the two names, its last value reachable."""
    if share is None and density is None:
        share = 1.0
    schedules = [
        amount if amount is None or isinstance(amount, Schedule) else constant(amount) for amount in (share, density)
    ]
    space.asked(*(None if schedule is None else schedule.stop for schedule in schedules))
    return next(schedule for schedule in schedules if schedule is not None)


__getattr__ = moved_names(
    __name__,
    {
        "named": "secateur.methods:METHODS.get",
        "registered": "secateur.methods:METHODS.all",
        "register": "secateur.methods:register",
    },
)
