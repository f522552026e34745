"""Compensation while a model is pruned: the Linears that read removed units take over what these contributed.

A method must remove units for good in between (`Method.alive`). Where masks are learned and units may return, what a
plan leaves out is closed already when the training ends, and there is no removal at which weights could change.

Training makes up for a removed unit only by and by, and at most steps of a schedule some leave. Here the weights that
are left are changed in closed form at the removal itself (`surgery/running_moments`), from moments that the training's
own forwards give. They cost a matrix product for each Linear, so only some steps gather them.

What the attention loses with QK dims, and whole sublayers, have no Linear that could make up for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.methods.method import Method, kept_at_present
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.compensation import check_refittable
from secateur.surgery.input_moments import reading, real_tokens
from secateur.surgery.running_moments import RunningMoments
from secateur.system.errors import UserError
from secateur.training.masks import TrainingMasks

EVERY = 4
"""Moments are gathered in one of this many optimizer steps."""


class RunningRefit(nn.Module):
    """Refits the Linears that read units which leave a method's `alive`, or whose masks are open and a plan closes.

    Moments are of masked inputs, so that what a gate had closed already, by and by, is not made up for: the training
    has adapted to it. Its state in a checkpoint are the moments.

    Attributes:
        paths: axis -> the path of the Linear that reads it, of axes that may lose units; empty if it is not enabled.
        moments: of each of these Linears.

    Args:
        masks: of the training.
        enabled: whether anything is refitted; if not, nothing is gathered, and there is no state.
        average: of a tensor over the processes.

    Raises:
        UserError: as `check_refit`.
    """

    moments: nn.ModuleList

    def __init__(self, masks: TrainingMasks, enabled: bool, average: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.masks, self.average = masks, average
        self.paths: dict[str, str] = {}
        self.moments = nn.ModuleList()
        if enabled and masks.method is not None:
            check_refit(masks.method)
            space, like = masks.method.space, next(masks.model.parameters())
            self.paths = _losing(space)
            self.moments.extend(RunningMoments(space.table.sizes[axis], like) for axis in self.paths)

    def gathers(self, step: int) -> bool:
        """Whether the forwards of an optimizer step are watched."""
        return bool(self.paths) and step % EVERY == 0

    @contextmanager
    def watching(self, batch: Mapping[str, Tensor], step: int) -> Iterator[None]:
        """Within the block the forward of a batch is watched, if the optimizer step gathers."""
        if not self.gathers(step):
            yield
            return
        self.to(self.masks.model.device)
        own, stored = self._by_axis(), self._stored()

        def use(axis: str, inputs: Tensor, outputs: Tensor) -> None:
            with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
                tokens = real_tokens(inputs, batch, self.paths[axis])
                own[axis].collect(tokens, _columns(stored, axis, tokens))

        for moments in own.values():
            moments.begin()
        with reading(self._modules_of(self.masks.model), use):
            yield

    @contextmanager
    def removals(self) -> Iterator[None]:
        """Within the block a method removes units at the end of an optimizer step; then the Linears are refitted.

        All processes must enter it.
        """
        if not self.paths:
            yield
            return
        for moments in self._by_axis().values():
            moments.settle(self.average)
        before = self._method.alive.clone()
        yield
        if not torch.equal(before, self._method.alive):
            self._refit(self.masks.model, self._stored(), before, self._method.alive)

    def to_plan(self, student: PreTrainedModel, plan: Plan) -> None:
        """Refit a student in its full size to the units of a plan, by which it is going to be cut."""
        if self.paths:
            kept = kept_at_present(self._method)
            self._refit(student, {}, kept, (plan.masks > 0).to(kept.device))

    @torch.no_grad()
    def _refit(self, model: PreTrainedModel, stored: Mapping[str, Tensor], before: Tensor, after: Tensor) -> None:
        """Refit the Linears of a model that lose inputs; `before` and `after` are units, `(N,)` bool."""
        space, modules = self._method.space, self._modules_of(model)
        had, have = (space.effective(units.double()) for units in (before, before & after))
        for axis, moments in self._by_axis().items():
            removed, kept = (had[axis] > 0) & (have[axis] == 0), have[axis] > 0
            if axis in modules and bool(removed.any()):
                module = modules[axis]
                _make_up(module, _columns(stored, axis, module.weight), moments, removed, kept)

    @property
    def _method(self) -> Method:
        return cast(Method, self.masks.method)

    def _by_axis(self) -> dict[str, RunningMoments]:
        return dict(zip(self.paths, cast("list[RunningMoments]", self.moments), strict=True))

    def _stored(self) -> Mapping[str, Tensor]:
        """The inputs that the Linears of a model that shrinks still have."""
        return {} if self.masks.attachment is None else self.masks.attachment.stored

    def _modules_of(self, model: PreTrainedModel) -> dict[str, nn.Linear]:
        """Axis -> the Linear that reads it; a sublayer that was cut away has none."""
        present = dict(model.named_modules())
        found = {axis: present.get(path) for axis, path in self.paths.items()}
        return {axis: module for axis, module in found.items() if isinstance(module, nn.Linear)}


def check_refit(method: Method) -> None:
    """Refuse a refit at removals that would change no weight, and one of tiles.

    Raises:
        UserError: the method removes no unit for good before its plan, or the units are tiles.
    """
    if not (method.monotone or method.shrinks):
        raise UserError(
            f"the refit makes up for units at the step that removes them for good, and {type(method).__name__} closes "
            "units that may return, until its plan: set method.refit: false, or choose a method such as grain"
        )
    check_refittable(method.space)


def moments_bytes(space: UnitSpace) -> int:
    """The bytes of the moments of a model with these units, in float32: in memory and in a checkpoint."""
    sizes = [space.table.sizes[axis] for axis in _losing(space)]
    return torch.float32.itemsize * sum(size * size + size + 1 for size in sizes)


def _losing(space: UnitSpace) -> dict[str, str]:
    """Axis -> the path of the Linear that reads it, of the axes at which units are masked."""
    sites = {site for group in space.groups for site in group.sites}
    return {axis: row.path for axis, row in space.table.readers.items() if axis in sites}


def _columns(stored: Mapping[str, Tensor], axis: str, inputs: Tensor) -> Tensor:
    """`(stored,)`: the number before pruning of each input `(..., stored)` that a Linear has, -1 for padding."""
    return stored[axis] if axis in stored else torch.arange(inputs.shape[-1], device=inputs.device)


def _make_up(module: nn.Linear, columns: Tensor, moments: RunningMoments, removed: Tensor, kept: Tensor) -> None:
    """Change a Linear in place, so that the inputs that are kept make up for those that are removed."""
    present = columns >= 0
    where = columns[present]
    whole = module.weight.new_zeros(module.out_features, len(kept))
    whole[:, where] = module.weight[:, present]
    weight, bias = moments.made_up(whole, removed, kept, centred=module.bias is not None)
    module.weight[:, present] = whole[:, where] + weight[:, where].to(whole.dtype)
    if module.bias is not None:
        module.bias.add_(bias.to(whole.dtype))
