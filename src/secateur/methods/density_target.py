"""A density as the target of gates: what it is expected to be, and the masks that have it exactly.

The expected density is that of the open probabilities: parameter counts are multilinear in the masks, and gates are
independent. The published accounting of CoFi (`l0_module.py`) counts differently: biases count in the whole and in the
heads, but not in the feed-forward networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import descending, rounded, with_best_hidden
from secateur.budget.space import Space
from secateur.methods.gates import HardConcrete
from secateur.methods.schedules import Schedule

WIDEST = 30.0  # a shift of log alpha that opens, or closes, any gate


class DensityTarget:
    """One constraint: the expected density of a space follows a schedule.

    Args:
        space: what is pruned.
        density: the schedule.
        gate: the distribution of the gates.
        published: expect the density by the published accounting.
    """

    constraints = 1

    def __init__(self, space: Space, density: Schedule, gate: HardConcrete, *, published: bool = False) -> None:
        self.space, self.density, self.gate, self.published = space, density, gate, published

    def expected(self, open_probability: Tensor) -> Tensor:
        """`()` expected density, in (0, 1], of `(N,)` probabilities."""
        if self.published:
            return 1.0 - published_sparsity(self.space, open_probability)
        return self.space.parameters(open_probability) / self.space.total()

    def gaps(self, open_probability: Tensor, progress: float) -> list[Tensor]:
        return [(self.density(progress) - self.expected(open_probability)).view(1)]

    def kept(self, scores: Tensor, alive: Tensor, density: float) -> Tensor:
        """`(N,)` bool: units of a counted density at most the one asked for, and below it by less than one unit.

        Units that are a group of their own (sublayers, layers) stay as they were learned, as far as the density can be
        reached so. The gates of all other units are shifted by one number, the largest at which the deterministic masks
        fit. The room that rounding and large units leave is filled with the best of the others, unless sizes are to be
        multiples (`Space.round_to`).
        """
        single = self._kept_singles(scores, alive, density)
        low, high = -WIDEST, WIDEST
        for _ in range(30):
            middle = (low + high) / 2
            fits = self.space.density(self._shifted(scores, single, middle)) <= density + 1e-12
            low, high = (middle, high) if fits else (low, middle)
        kept = self._shifted(scores, single, low)
        return kept if self.space.round_to > 1 else Parameters().fill(self.space, kept, scores, density)

    def _kept_singles(self, scores: Tensor, alive: Tensor, density: float) -> Tensor:
        """Numbers of the kept units that are a group of their own.

        They are those whose gates are more likely open than closed, or, where the density is out of reach with these,
        more or fewer of the highest.
        """
        numbers = torch.arange(len(self.space), device=scores.device)
        singles = torch.cat([numbers[:0], *(row for _, row in self.space.by_group(numbers) if len(row) == 1)])
        singles = singles[alive[singles]]
        gates = scores[singles]
        highest = singles[descending(gates)]
        count = int((self.gate.open_probability(gates) >= 0.5).sum())
        while count < len(highest) and self.space.density(self._shifted(scores, highest[:count], WIDEST)) < density:
            count += 1
        while count > 0 and self.space.density(self._shifted(scores, highest[:count], -WIDEST)) > density:
            count -= 1
        return highest[:count]

    def _shifted(self, scores: Tensor, single: Tensor, shift: float) -> Tensor:
        """`(N,)` bool, closed: these single units, and those of the others that are open with shifted gates.

        At least the hidden dim of the highest score is kept.
        """
        shifted = scores + shift
        vectors = [gates for _, gates in self.space.by_group(shifted)]
        kept = torch.cat([(self.gate.deterministic(gates) > 0) & (len(gates) > 1) for gates in vectors])
        kept[single] = True
        kept = with_best_hidden(self.space, kept, shifted)
        return self.space.closure(rounded(self.space, kept, shifted, self.space.round_to))


def published_size(space: Space) -> int:
    """M: parameters of all layers as the published code counts them, `L (4 H^2 + 4 H) + L (2 H I + 5 H)`."""
    hidden, wide = space.table.sizes["hidden"], space.table.sizes["0.ffn"]
    return len(space.table.layers) * (4 * hidden**2 + 4 * hidden + 2 * hidden * wide + 5 * hidden)


def published_sparsity(space: Space, probabilities: Tensor) -> Tensor:
    """`()` expected sparsity by the published formulas, which differ with and without gates on the hidden dims.

    With p the probabilities that gates are open, E is `sum p_hidden (4 H + 4) / A sum p_attention p_head
    + 2 sum p_hidden sum p_mlp p_neuron`, or without gates on the hidden dims `(4 H^2 + 4 H) / A sum p_attention p_head
    + floor((2 H I + 5 H) / I) sum p_mlp p_neuron`; the sparsity is 1 - E / M.
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
