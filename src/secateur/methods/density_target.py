"""A density as the target of gates: its expectation, and the masks that meet it.

The expected density is the density of the probabilities that gates are open, because parameter counts are multilinear
in the masks and gates are independent. The published formula of CoFi (`l0_module.py`) differs: it counts biases in the
whole model and in the heads, but not in the feed-forward networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import descending, rounded, with_best_hidden
from secateur.budget.space import Space
from secateur.methods.gates import HardConcrete
from secateur.methods.schedules import Schedule

MAX_SHIFT = 30.0  # a shift of log alpha that opens, or closes, any gate within 20 of 0
BISECTIONS = 30


class DensityTarget:
    """One constraint: the expected density of a space follows a schedule.

    Args:
        space: what is pruned.
        density: the schedule.
        gate: the distribution of the gates.
        published: whether the expected density is that of the published formula.
    """

    constraints = 1

    def __init__(self, space: Space, density: Schedule, gate: HardConcrete, *, published: bool = False) -> None:
        self.space, self.density, self.gate, self.published = space, density, gate, published

    def expected(self, open_probability: Tensor) -> Tensor:
        """`()` expected density, in (0, 1], of `(N,)` probabilities."""
        if self.published:
            return 1.0 - published_sparsity(self.space, open_probability)
        return self.space.parameters(open_probability) / self.space.total()

    def density_of(self, log_alpha: Tensor) -> float:
        """The expected density of gates `(N,)`, minus infinity where a unit is not alive."""
        return self.space.density(self.gate.open_probability(log_alpha))

    def gaps(self, open_probability: Tensor, progress: float) -> list[Tensor]:
        return [(self.density(progress) - self.expected(open_probability)).view(1)]

    def ramp_ended(self, progress: float) -> bool:
        return self.density(progress) == self.density.stop

    def kept(self, scores: Tensor, alive: Tensor, density: float, progress: float) -> Tensor:
        """`(N,)` bool: units whose counted density is at most the given one, and such that no other fits beside them.

        Groups of one unit (sublayers, layers) are kept as they were learned, as far as the density is in reach with
        them. Log alpha of all other gates is shifted by one number, the largest at which the deterministic masks fit.
        The highest-scored other units that still fit are added. Where all that is open is kept and there is still room,
        sublayers and layers that were closed are opened for them, by their scores.
        """
        single, reach = self._kept_singles(scores, alive, density), _reach(scores)
        low, high = -reach, reach
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fits = self.space.density(self._shifted(scores, single, middle)) <= density + 1e-12
            low, high = (middle, high) if fits else (low, middle)
        return Parameters().add_fitting_units(self.space, self._shifted(scores, single, low), scores, density)

    def _kept_singles(self, scores: Tensor, alive: Tensor, density: float) -> Tensor:
        """Indices of the units to keep among those that are the only one of their group.

        They are those whose gates are more likely open than closed, or more or fewer of the highest-scored ones where
        the density is out of reach with these.
        """
        numbers = torch.arange(len(self.space), device=scores.device)
        singles = torch.cat([numbers[:0], *(row for _, row in self.space.by_group(numbers) if len(row) == 1)])
        singles = singles[alive[singles]]
        gates = scores[singles]
        ranked = singles[descending(gates)]
        count, reach = int((self.gate.open_probability(gates) >= 0.5).sum()), _reach(scores)
        while count < len(ranked) and self.space.density(self._shifted(scores, ranked[:count], reach)) < density:
            count += 1
        while count > 0 and self.space.density(self._shifted(scores, ranked[:count], -reach)) > density:
            count -= 1
        return ranked[:count]

    def _shifted(self, scores: Tensor, single: Tensor, shift: float) -> Tensor:
        """`(N,)` bool, closed: the given single units, and the other units that are open after the shift.

        The highest-scored hidden dim is always kept.
        """
        shifted = scores + shift
        vectors = [gates for _, gates in self.space.by_group(shifted)]
        kept = torch.cat([(self.gate.deterministic(gates) > 0) & (len(gates) > 1) for gates in vectors])
        kept[single] = True
        kept = with_best_hidden(self.space, kept, shifted)
        return self.space.closure(rounded(self.space, kept, shifted, self.space.round_to))


def _reach(scores: Tensor) -> float:
    """A shift that opens, or closes, every gate whose log alpha is finite; gates with evidence may be far from 0."""
    farthest = scores[scores.isfinite()].abs().max() if bool(scores.isfinite().any()) else 0.0
    return max(MAX_SHIFT, float(farthest) + 10.0)


def published_size(space: Space) -> int:
    """M, the parameters of all layers by the published formula, `L (4 H^2 + 4 H) + L (2 H I + 5 H)`."""
    hidden, wide = space.table.sizes["hidden"], space.table.sizes["0.ffn"]
    return len(space.table.layers) * (4 * hidden**2 + 4 * hidden + 2 * hidden * wide + 5 * hidden)


def published_sparsity(space: Space, probabilities: Tensor) -> Tensor:
    """`()` expected sparsity by the published formulas, which depend on whether hidden dims have gates.

    The sparsity is 1 - E / M. With p the probabilities that gates are open, the expected size E is
    `sum p_hidden (4 H + 4) / A sum p_attention p_head + 2 sum p_hidden sum p_mlp p_neuron` with gates on hidden dims,
    and `(4 H^2 + 4 H) / A sum p_attention p_head + floor((2 H I + 5 H) / I) sum p_mlp p_neuron` without them.
    """
    table = space.table
    hidden, wide = table.sizes["hidden"], table.sizes["0.ffn"]
    heads, neurons = _expected_heads_and_neurons(space, probabilities)
    head_size = (4 * hidden**2 + 4 * hidden) // table.heads
    if "hidden" in space.slices:
        dims = probabilities[space.slices["hidden"]].sum()
        expected = dims * (head_size / hidden * heads + 2 * neurons)
    else:
        expected = head_size * heads + (2 * hidden * wide + 5 * hidden) // wide * neurons
    return 1.0 - expected / published_size(space)


def _expected_heads_and_neurons(space: Space, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """`()` each: `sum p_attention p_head` and `sum p_mlp p_neuron` over all layers."""
    table, open_ = space.table, space.at_sites(probabilities)
    one = probabilities.new_ones(())
    heads = neurons = probabilities.new_zeros(())
    for layer in table.layers:
        attention, mlp = (open_.get(f"{layer}.{sublayer}", one).sum() for sublayer in ("attention", "mlp"))
        on_vo = open_.get(f"{layer}.vo", one.expand(table.sizes["hidden"]))
        heads = heads + attention * on_vo.sum() / table.head_dim
        neurons = neurons + mlp * open_.get(f"{layer}.ffn", one.expand(table.sizes["0.ffn"])).sum()
    return heads, neurons
