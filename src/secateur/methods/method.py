"""The contract of a pruning method.

A method turns evidence, such as gradients with respect to the masks, into masks and scores. It knows the space of
units, and neither the model family nor the loss nor the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.budget.units import choose_exactly
from secateur.methods.renamed import RenamedMembers
from secateur.methods.schedules import Schedule, constant, cubic
from secateur.structure.plan import Plan
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.system.moved import moved_names

Amount = Schedule | float
"""A share or a density, as a function of progress; a number is the final value, for use without training."""


LEAST_SHARE = 0.01
"""The end of the schedule of a method that does not follow it, where the units could reach less."""


def _described(method: Method) -> str:
    """What a method shows when it is printed."""
    state = f"progress {method.progress:.2f}, {int(method.alive.sum()):,} of {len(method.alive):,} units alive"
    return f"{type(method).__name__}({method.share_schedule}, {state}, {method.space!r})"


class Method(RenamedMembers):
    """Base class of pruning methods. A subclass must write `scores`; the other members have defaults.

    Args:
        share: how much of the space's budget to keep, as a function of progress; by default all of it.
        density: the same as `share`, for spaces whose budget is the number of parameters.

    Attributes:
        name: what plans call the method: the name by which it is registered, or else that of its class.
        share_schedule: the schedule of the share.
        progress: the part of the whole run that is done, in [0, 1].
        steps: the number of optimizer steps taken.
        alive: `(N,)` bool, the units that may still be open.

    Raises:
        UserError: both `share` and `density` are given; the share is out of reach (the message names the floor); or
            the method does not support the budget of the space.

    State that must survive a restart belongs in buffers and parameters, or in what `get_extra_state` adds.

    A unit that is not `alive` is removed permanently: its mask is exactly 0 in training, in evaluation and in the
    plan, it gets no gradient, and the trainer may cut its weights away. The method removes units from `alive` itself,
    in `advance`:

    - a monotone method removes every unit that its masks close, because its masks are `alive`;
    - a method that learns its masks may remove units whose masks have settled, by a rule of its own. The gate or score
      of such a unit is from then on read as minus infinity (`where_alive`): its samples are 0, it contributes 0 to
      sums and softmaxes, and it is below every threshold and last in every ranking.
    """

    name: str
    alive: Tensor
    __repr__ = _described
    budgets: tuple[str, ...] | None = None
    """Names of the budgets (`Budget.name`) that the method supports; None for all."""
    monotone = True
    """Whether the masks never reopen a unit; if not, only units outside `alive` are removed permanently."""
    in_rounds = False
    """Whether it takes `rounds`, in which coarse units are pruned before the others (`methods/rounds.py`)."""
    reads_weights = False
    """Whether scores are computed from the weights of the whole model, which can then not be cut during training."""
    faithful = False
    """Whether it follows a published procedure to the letter, which may keep less than it is asked for."""
    defaults: Mapping[str, Any] = {}
    """Recipe keys and the values that they have with this method, where the recipe does not set them."""

    def __init__(self, space: Space, share: Amount | None = None, density: Amount | None = None) -> None:
        super().__init__()
        if not hasattr(type(self), "name"):
            self.name = type(self).__name__
        _check_budget(type(self), space)
        self.space = space
        self.share_schedule = _schedule_of(space, share, density)
        self.progress, self.steps = 0.0, 0
        self.register_buffer("alive", space.ones().bool())

    @property
    def shrinks(self) -> bool:
        """Whether the model may be cut to the units that are alive while it is trained.

        A method that is not monotone but removes units from `alive` overrides this.
        """
        return self.monotone and not self.reads_weights

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `defaults` of a recipe with these method options."""
        return cls.defaults

    @property
    def fills_zeroed_blocks(self) -> bool:
        """Whether the zeroed blocks between kept tiles become trainable weights once the model has been cut."""
        return False

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """The schedule of the paper: from 1 to a density (or share), between `begin` and `end` of a run."""
        return cubic(1.0, density, begin=begin, end=end)

    @property
    def listens_to(self) -> Mapping[str, float]:
        """Loss term -> weight of its gradient in `observe`; empty in a step that needs no gradient.

        It is read in every micro-batch. It must depend only on what `advance` changes, so that all micro-batches of a
        step are weighted alike.
        """
        return {}

    def masks(self) -> Tensor:
        """`(N,)` in [0, 1]; deterministic when not training."""
        return self.alive.float()

    def where_alive(self, values: Tensor) -> Tensor:
        """Gates or scores `(N,)`, with minus infinity and no gradient for units that are not alive."""
        return values.masked_fill(~self.alive, -torch.inf)

    def observe(self, gradient: Tensor) -> None:
        """Use the gradient `(N,)` of the terms in `listens_to` with respect to the masks.

        It is the signed gradient of one whole optimizer step, averaged over devices. `PruningTrainer` and a cut by rows
        end with an error where it is not finite; for who calls this otherwise, such a step says nothing (`finite`).
        """

    def advance(self, progress: float) -> None:
        """Update the state after an optimizer step, whose gradients the method's parameters still have."""
        self.progress = progress
        self.steps += 1

    def penalty(self) -> Tensor | float:
        """`()` added to the loss."""
        return 0.0

    def scores(self) -> Tensor:
        """`(N,)`, larger = kept longer."""
        raise NotImplementedError(f"{type(self).__name__} must rank the units: write scores()")

    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups of the method's own parameters, with their learning rates.

        The learning rate of a group with `constant: True` stays constant; others follow the schedule of the run.
        Gradients are averaged over devices. The gradient of a group with `clip: c` is clipped to a norm of c on its
        own; that of other groups is not clipped.
        """
        return []

    def log_values(self) -> dict[str, float]:
        """Numbers for the training log, by name: the density of the masks, and their share of another budget."""
        other = {} if self.space.budget.of_parameters else {"share": self.space.share(self.alive)}
        return {"density": self.space.density(self.alive), **other}

    def reached_target(self) -> bool:
        """Whether the masks have reached the last share of the schedule: earlier scores of a model do not compare."""
        return True

    def chosen(self, share: float) -> Tensor:
        """`(N,)` final masks within a share of the budget; 0 removes a unit. They need not be closed."""
        masks = self.masks().detach()
        return masks * self.space.choose(self.scores(), share, alive=masks > 0)

    def exactly(self, count: int) -> Tensor:
        """`(N,)` final masks of exactly `count` units."""
        masks = self.masks().detach()
        return masks * choose_exactly(self.space, self.scores(), count, alive=masks > 0)

    def get_extra_state(self) -> Tensor:
        """Numbers that the host reads at every step. They are not on the device, where reading would synchronise."""
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
        """The plan within a share of the budget, or with an exact number of units. Subclasses do not override it.

        Args:
            share: of the space's budget; the density where parameters are counted.
            embedding_rank: factorise the word embeddings to this rank when the plan is cut.
            density: the same as `share`, where parameters are counted.
            keep: the exact number of units that are left after closure, in place of a share.

        Raises:
            UserError: not exactly one of the three is given; the share cannot be reached with these units (the message
                names the floor), or leaves nothing of the layers; or the number of units cannot be kept exactly.
        """
        if [share, density, keep].count(None) != 2:
            raise UserError(
                "a plan is for a share, a density or a number of units: give one of share, density and keep"
            )
        requested = self.space.requested_share(share, density) if keep is None else None
        with evaluating([self]):
            masks = self.chosen(requested) if requested is not None else self.exactly(cast(int, keep))
        if requested is not None:
            self.space.check_something_left(masks > 0, requested)
        budget = self.space.budget
        return Plan.of(
            self.space,
            masks,
            method=self.name,
            asked=requested if budget.of_parameters else None,
            keep=keep,
            latency=budget.record(self.space, masks > 0, requested),
            embedding_rank=embedding_rank,
        )


def finite(gradient: Tensor) -> Tensor:
    """A gradient `(N,)`, or zeros if one of its numbers is not finite; the host does not wait for the device."""
    return torch.where(torch.isfinite(gradient).all(), gradient, 0.0)


class Waiting(Method):
    """A method whose masks are all 1 until its schedule begins."""

    @property
    def begun(self) -> bool:
        """Whether pruning has begun."""
        return self.progress >= self.share_schedule.begin


def before_pruning(kind: type[Method], space: Space, **options: Any) -> Method:
    """A method whose whole schedule is ahead of it, to choose units without training.

    It listens as in a run; a method at a constant share has nothing to prune and listens to nothing.
    """
    return kind(space, kind.schedule(max(space.floor(), LEAST_SHARE), 0.0, 1.0), **options)


@runtime_checkable
class Calibrated(Protocol):
    """A method that looks at the whole model on batches of its inputs, before anything is pruned."""

    def calibrate(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Collect what scores need; calling it again begins anew."""


@runtime_checkable
class Choosing(Protocol):
    """A method that knows which units it keeps at present, where its masks of evaluation may be samples or soft."""

    def kept_at_present(self) -> Tensor:
        """`(N,)` bool."""


def kept_at_present(method: Method) -> Tensor:
    """`(N,)` bool: the units that a method keeps at present; those that are open in evaluation, if it does not say."""
    if isinstance(method, Choosing):
        return method.kept_at_present()
    with evaluating([method]):
        return method.masks() > 0


def _check_budget(method: type[Method], space: Space) -> None:
    if method.budgets is not None and space.budget.name not in method.budgets:
        raise UserError(
            f"{method.__name__} follows a budget of {' or '.join(method.budgets)}, and this space counts "
            f"{space.budget.name}: ask for another budget, or choose another method"
        )


def _schedule_of(space: Space, share: Amount | None, density: Amount | None) -> Schedule:
    """The schedule that is passed under one of the two names; its last value must be within reach of the space."""
    if share is None and density is None:
        share = 1.0
    last = space.requested_share(*(one.stop if isinstance(one, Schedule) else one for one in (share, density)))
    given = density if share is None else share
    return given if isinstance(given, Schedule) else constant(last)


__getattr__ = moved_names(
    __name__,
    {
        "named": "secateur.methods:METHODS.get",
        "registered": "secateur.methods:METHODS.all",
        "register": "secateur.methods:register",
    },
)
