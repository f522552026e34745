"""Whether a unit that is left out would fit: asked of a choice of units without the code that makes it."""

import re

import torch

COARSE = ("layer", "sublayer")
MOST = 24  # units that are tried of a choice, evenly spread: those of a place cost the same


def places(space, kept):
    """The first unit that is left out of every group, and of every head within it; of tiles some."""
    found = []
    for group in space.groups:
        start = space.slices[group.name].start
        out = [place for place in range(group.size) if not kept[start + place]]
        parts = space.table.kv_heads if group.kind in ("qk", "vo") else 1
        if group.grids:
            found += [(group, place) for place in out[:: max(1, len(out) // 4)]]
        else:
            firsts = {place * parts // group.size: place for place in reversed(out)}
            found += [(group, place) for place in firsts.values()]
    return found[:: 1 + len(found) // MOST]


def above(space, group, place):
    """The indices of the head, the sublayers and the layer that a unit is in, or that are in the same layer."""
    layer = re.match(r"(.*?\d+)(\.|$)", group.name)
    if not layer or group.grids:
        return []
    block = group.name.rsplit(".", 1)[0]
    found = []
    for other in space.groups:
        first = space.slices[other.name].start
        if other.kind in COARSE and other.name.startswith(f"{layer[1]}."):
            found.append(first)
        if other.kind == "head" and group.kind in ("qk", "vo") and other.name == f"{block}.head":
            found.append(first + place * other.size // group.size)
    return found


def with_unit(space, kept, group, place):
    """`kept` with a unit, and the head, the sublayer and the layer that it is in, as far as it is dead without them."""
    unit, more = space.slices[group.name].start + place, kept.clone()
    added = [one for one in above(space, group, place) if not kept[one] and one != unit]
    more[[unit, *added]] = True
    if not space.closure(more)[unit]:
        return space.closure(kept)
    for one in added:
        more[one] = False
        more[one] = not space.closure(more)[unit]
    return space.closure(more)


def assert_nothing_fits(space, kept, density):
    """No unit that is left out, with what it is in, fits beside those that are kept."""
    before = float(space.parameters(kept))
    for group, place in places(space, kept):
        more = float(space.parameters(with_unit(space, kept, group, place)))
        assert more == before or more / space.total() > density + 1e-12, (group.name, place)


def nothing(space):
    """No unit but a dim of the residual stream."""
    kept = torch.zeros(len(space), dtype=torch.bool)
    if "hidden" in space.slices:
        kept[space.slices["hidden"].start] = True
    return kept
