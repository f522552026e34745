"""Law 7: a mask's gradient is the Taylor sum of the weights, `dL/dmask == sum(W * dL/dW)` over the unit."""

from itertools import product

import pytest
import torch
from tiny_models import ARCHITECTURES, COMMON_UNITS, DECODERS, MODELS, SENTENCES, inputs, tiny

from secateur.budget.space import Space
from secateur.structure.architecture import Linear
from secateur.surgery.masking import attached


def taylor(space, products, group):
    """Sums over each unit of `products` (parameter -> W * dL/dW), by every set of weights that carries it."""
    table = space.table

    def by_unit(values, axis):
        """`(units,)`: sums of values over what the group has along an axis, a gate or a row of indices."""
        return group.by_unit(values, axis).sum(1) if axis in table.sizes else values.sum().view(1)

    def over(*rows):
        """`(units,)`: the products of the rows' parameters, summed over every dim but the group's axis."""
        total = torch.zeros(group.size, dtype=torch.float64)
        for parameter in table.parameters:
            if parameter.row in rows:
                dims = [dim for dim, axis in enumerate(parameter.axes) if axis not in group.axes]
                own_product = parameter.of(products[parameter.name])
                own = next((axis for axis in parameter.axes if axis in group.axes), None)
                total += by_unit(own_product.sum(dims) if dims else own_product, own)
        return total

    if group.grids:
        return [
            sum(grid.sums(grid.parameter.of(products[grid.parameter.name])) for grid in group.grids)
        ]  # weights without their biases
    site = group.sites[0]
    if group.kind in ("sublayer", "layer"):
        return [over(*(table.writer(gate) for gate in group.sites))]  # weights and biases
    if group.kind == "hidden":
        writes = [row.out if isinstance(row, Linear) else row.axis for row in table.rows]
        return [over(*(row for row, axis in zip(table.rows, writes, strict=True) if axis == "hidden"))]
    if group.kind == "qk":
        return [over(*table.queries(site)), over(*table.keys(site))]  # with bias
    columns = by_unit(products[f"{table.reader(site).path}.weight"].sum(0), site)
    if table.kv_axis(site) not in group.axes:  # a head whose value is that of others too
        return [columns]
    makers = [over(maker) for maker in table.makers(site)]  # with bias: value; up
    return [columns] if group.kind == "ffn" else [columns, *makers]  # an activation follows up


def loss_of(model, batch):
    found = model(**batch)
    tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
    return sum((value.tanh().flatten() * torch.linspace(-1, 1, value.numel())).sum() for value in tensors)


def with_zeroed_constants(model):
    """The model with zeros for weights that take no gradient (sinusoids): their products cannot be computed."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.zero_().requires_grad_()
    return model


KINDS = (*COMMON_UNITS, "attention/4x8", "ffn/8x4", "attention/head", "ffn/tied")
CASES = [*product((*MODELS, *SENTENCES), KINDS), *((which, "kv_head") for which in DECODERS)]


@pytest.mark.parametrize(
    ("which", "kind"), [pytest.param(*which.values, kind, id=f"{which.id}-{kind}") for which, kind in CASES]
)
def test_mask_gradient_is_the_taylor_sum(which, kind):
    model = with_zeroed_constants(tiny(*which))
    space = Space(model, kind)
    with attached(model, space, space.ones().double()) as attachment:
        loss = loss_of(model, inputs(model, padded=False))
        names, weights = zip(*model.named_parameters(), strict=True)
        by_mask, *by_weight = torch.autograd.grad(loss, [attachment.masks, *weights], allow_unused=True)
    products = {
        name: torch.zeros_like(weight) if gradient is None else (weight * gradient).detach()
        for name, weight, gradient in zip(names, weights, by_weight, strict=True)
    }
    assert float(by_mask.abs().max()) > 1e-3
    for group in space.groups:
        for sums in taylor(space, products, group):
            torch.testing.assert_close(by_mask[space.slices[group.name]], sums, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`")  # its successor is not in all of 5.x
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_checkpointed_gradients_are_the_same(kind):
    model = tiny(kind)
    if not model.supports_gradient_checkpointing:
        pytest.skip(f"transformers has no gradient checkpointing for {kind}")
    space = Space(model, "ffn", "qk", "vo", "sublayer", "hidden")
    batch, found = inputs(model), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with attached(model, space, lambda: 0.8 + 0.2 * torch.rand(len(space))) as attachment:
            torch.manual_seed(0)
            found.append(torch.autograd.grad(loss_of(model, batch), attachment.masks)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
