"""What laws 1 to 3 and 13 assert of a model, on any device and in any dtype; tests/laws and tests/gpu choose these.

In float64, two ways to compute the same are equal up to noise. In a lower precision each has its own rounding: the
second way is computed in float64 too, which gives its error, and the ways may differ by 16 roundings and 10 times that
error. All are relative to the largest value of a tensor, and the error is that of the tensor where it is largest,
because a tensor of a few logits can be exact by chance. The random models of the tests amplify rounding, the gated one
of T5 most: there the errors of two ways in float32 were up to 6 times apart.
"""

import copy

import torch
from tiny_models import Exact, inputs, outputs

from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.surgery.quantisation import with_rounded_embeddings
from secateur.surgery.word_embeddings import quantised_tables

ROUNDINGS, ERRORS = 16, 10


def in_float64(model):
    """A copy of a model in double precision, in which every module computes."""
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if hasattr(module, "variance_epsilon"):  # an RMSNorm
            module.__class__ = Exact
    return exact


def everything(model, batch):
    """All outputs and hidden states of a model by name."""
    tensors, states = outputs(model, batch)
    return tensors | {f"hidden {layer}": state for layer, state in enumerate(states)}


def under_masks(model, space, masks, batch):
    """`everything` of a model under masks: `(N,)` on any device, or a callable."""
    if isinstance(masks, torch.Tensor):
        masks = masks.to(model.device, torch.promote_types(model.dtype, torch.float32))
    with attached(model, space, masks):
        return everything(model, batch)


def assert_same(mine, theirs, exact=None, *, rtol=1e-9, atol=1e-11):
    """The same tensors by name, up to noise of float64; in a lower precision up to rounding, with `exact` values."""
    assert mine.keys() == theirs.keys()
    assert [name for name, tensor in theirs.items() if not bool(torch.isfinite(tensor).all())] == []
    if exact is None:
        for name, tensor in theirs.items():
            torch.testing.assert_close(mine[name], tensor, rtol=rtol, atol=atol)
        return
    assert {name: tensor.dtype for name, tensor in mine.items()} == {name: t.dtype for name, t in theirs.items()}
    eps = max(torch.finfo(tensor.dtype).eps for tensor in theirs.values())
    error = max(_relative(theirs[name], tensor, tensor) for name, tensor in exact.items())
    far = {name: _relative(mine[name], theirs[name], tensor) for name, tensor in exact.items()}
    allowed = ROUNDINGS * eps + ERRORS * error
    assert {name: distance for name, distance in far.items() if not distance <= allowed} == {}, allowed


def _relative(one, other, exact):
    """The largest difference of two tensors as a part of the largest exact value; 0 for empty ones."""
    assert one.shape == other.shape
    if not one.numel():
        return 0.0
    return float((one.double() - other.double()).abs().max() / exact.abs().max().clamp(min=1e-30))


def assert_ones_change_nothing(model, space, masks):
    """Law 1, of masks that are all 1."""
    batch = inputs(model)
    masked, stock = under_masks(model, space, masks, batch), everything(model, batch)
    if model.dtype == torch.float64:
        assert_same(masked, stock, rtol=0, atol=1e-12)
    else:
        assert_same(masked, stock, everything(in_float64(model), batch))


def assert_cut_equals_masked(model, plan, masks=None, *, batches=None):
    """Law 2. `masks` before closure, if given: units that are dead because of others must not matter.

    Word embeddings that the plan stores in int8 are rounded to these values in the masked model.
    """
    model = with_rounded_embeddings(model, plan)
    space, compact = plan.space(model), cut(model, plan)
    masks = plan.masks if masks is None else masks
    for batch in batches or [inputs(model)]:
        small = everything(compact, batch)
        masked = of_kept_stream(under_masks(model, space, masks, batch), small, space, plan)
        exact = None
        if model.dtype != torch.float64:
            exact = of_kept_stream(under_masks(in_float64(model), space, masks, batch), small, space, plan)
        assert_same(small, masked, exact)


def of_kept_stream(tensors, small, space, plan):
    """Tensors of a masked model by name, without the hidden dims that the plan removes."""
    kept = (space.effective(plan.masks)["hidden"] > 0).cpu()
    width = space.table.sizes["hidden"]
    return {
        name: tensor[..., kept.to(tensor.device)]
        if tensor.shape[-1] == width and tensor.shape != small[name].shape
        else tensor
        for name, tensor in tensors.items()
    }


def assert_counted_equals_stored(model, plan):
    """Law 3: the parameters counted from a plan are those that the cut model stores, apart from padding."""
    space, small = plan.space(model), cut(model, plan)
    stored = sum(parameter.numel() for parameter in small.parameters())
    stored += sum(table.rows.numel() for table in quantised_tables(small).values())
    counted = stored - padding(space, small)
    if space.tiled:
        assert space.parameters(space.filled(plan.kept), "model") == counted
        counted = sum(int(parameter.count_nonzero()) for parameter in small.parameters())
    if plan.embedding_rank is None:
        assert space.parameters(plan.kept, "model") == counted
    assert abs(plan.achieved["model"] - counted / space.total("model")) <= 1e-12
    assert space.parameters(plan.kept, "layers") <= space.parameters(plan.kept, "model")


def padding(space, small):
    """Stored parameters that are there only to pad the heads of a layer to one width, by the structure."""
    padded, reading = {}, Plan.from_dict(small.plan, space.model).read(space)
    for attention in space.table.attentions:
        if spec := small.config.secateur["attention"].get(attention.path):
            for axis in (f"{attention.block}.qk", f"{attention.block}.vo"):
                kv, dims = space.table.kv_axis(axis), spec[axis.rpartition(".")[2]]
                keys = [1] * len(dims)
                padded[kv] = stored_dims(spec, dims, keys) - int(reading.alive[kv].sum())
                padded[axis] = stored_dims(spec, dims, spec["queries"] or keys) - int(reading.alive[axis].sum())
    stored = dict(small.named_parameters())
    total = 0
    for parameter in space.table.parameters:
        for dim, axis in enumerate(parameter.axes):
            if axis in padded and parameter.name in stored:
                tensor = stored[parameter.name]
                total += padded[axis] * tensor[:].select(dim, 0).numel()
    return total


def stored_dims(spec, dims, heads):
    """Dims of the heads of all buckets, padded to a multiple, with so many heads for each key."""
    total, dims, heads, multiple = 0, list(dims), list(heads), spec["multiple"]
    for keys in spec["buckets"]:
        own, dims = dims[:keys], dims[keys:]
        total += sum(heads[:keys]) * (-(-max(1, *own) // multiple) * multiple)
        heads = heads[keys:]
    return total
