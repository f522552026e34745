"""A clock that computes the latency of a cut model from the sizes in its plan, and what is measured with it.

The time is multilinear in the sizes, so that a table that is measured with it predicts every cut exactly.
"""

from secateur.measure.measurement import Measurement

UNIT_SETS = (
    ("ffn", "qk", "vo"),
    ("head", "ffn"),
    ("hidden", "head", "sublayer", "ffn"),
    ("layer", "head", "ffn"),
    ("sublayer", "layer", "qk"),
    ("ffn", "qk", "vo", "head", "sublayer", "hidden"),
)
SIZES = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 20}


def sizes_of(model):
    """Width of the residual stream, and per layer (heads, widest QK, widest VO, neurons), None if it is removed."""
    config = model.config
    layers, heads, hidden = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    dim, whole = hidden // heads, {"ffn": config.intermediate_size, "qk": hidden, "vo": hidden, "head": heads}
    groups = (getattr(model, "plan", None) or {"groups": {}})["groups"]

    def kept(name, size):
        if name not in groups:
            return set(range(size))
        return {index for first, last in groups[name]["kept"] for index in range(first, last + 1)}

    def unit(name, size):
        """Dims of a unit: rotary ones are kept in pairs."""
        return size // groups[name]["size"] if name in groups else 1

    def layer_sizes(layer):
        of_layer = bool(kept(f"{layer}.layer", 1))
        gates = {name: of_layer and bool(kept(f"{layer}.{name}", 1)) for name in ("attention", "mlp")}
        living = kept(f"{layer}.head", whole["head"])
        dims = {axis: [0] * heads for axis in ("qk", "vo")}
        for axis, counts in dims.items():
            own = unit(f"{layer}.{axis}", whole[axis])
            for index in kept(f"{layer}.{axis}", whole[axis]):
                counts[index * own // dim] += own * (index * own // dim in living)
        alive = [head for head in range(heads) if dims["vo"][head]]
        widest = [max([unit(f"{layer}.{axis}", whole[axis]), *(dims[axis][head] for head in alive)]) for axis in dims]
        attention = (len(alive), *widest) if gates["attention"] else None
        return attention, len(kept(f"{layer}.ffn", whole["ffn"])) if gates["mlp"] else None

    return len(kept("hidden", hidden)), [layer_sizes(layer) for layer in range(layers)]


def milliseconds(model):
    hidden, layers = sizes_of(model)
    total = 0.3 + 0.01 * hidden
    for attention, neurons in layers:
        if attention is not None:
            heads, qk, vo = attention
            total += 0.2 + 0.01 * hidden + heads * (0.1 + 0.004 * (qk + 2 * vo) * hidden)
        if neurons is not None:
            total += 0.1 + 0.02 * hidden + neurons * (0.01 + 0.003 * hidden)
    return total


def by_weights(model):
    """The time of a model of any family: so much for each weight of a projection, by its stack and its kind."""
    rates = {"encoder_attn": 0.003, "decoder": 0.004, "encoder": 0.001}
    projections = ("proj", "fc1", "fc2")
    return 0.3 + sum(
        next((rate for part, rate in rates.items() if part in name), 0.002) * weight.numel()
        for name, weight in model.named_parameters()
        if any(part in name for part in projections)
    )


def timer(pace=lambda turn: 1.0, noise=lambda turn: 1.0, tokens=128, clock=milliseconds):
    """`(model, against)` to a measurement; `pace` slows both models of a turn, `noise` the first alone."""
    turns = iter(range(10**6))

    def measure(model, against):
        turn = next(turns)
        protocol = {"batch": 8, "tokens": tokens, "threads": 1, "repeats": 1, "dtype": "float32", "device": "cpu"}
        protocol |= {"runtime": "a fake", "machine": "none", "order": "interleaved"}
        times = (clock(model) * noise(turn), clock(against))
        own, other = (Measurement(ms * pace(turn), (ms, ms), 0, protocol) for ms in times)
        return Measurement(own.latency_ms, own.quartiles_ms, 0, protocol, other)

    return measure
