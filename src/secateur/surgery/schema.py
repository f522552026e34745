"""The `secateur` key of a compact model's `config.json`: how it differs from the stock model, module by module.

`Structure` is the one form in which the key is written, checked and read: `cut` makes one, `reshape` applies one to a
model that is being cut and to a model that is being loaded. The key names only what differs from the stock model.

Version 1 (secateur 0.1.0) does not contain how an attention is called; the names of its modules imply it
(`_with_call`). Versions 1 and 2 have no quantised and no shared tables, versions before 4 no rotary attentions, and
versions before 5 no heads that share keys and values.
This file is part of the code in every compact folder, so it imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

VERSION = 5
OLDER = (1, 2, 3, 4)
KEY = "the config's secateur key"
CALLS = ("encoder", "encoder_bias", "disentangled", "rotary", "decoder", "seq2seq", "seq2seq_bias")
"""How stock layers call their attention; for each there is a class in `compact.attention_calls`."""
ROTARY = ("rotary", "decoder")
"""Those of `CALLS` whose queries and keys are rotated."""
REPLACEMENTS = ("zero", "empty", "identity", "skip")
QUANTISED = ("int8",)
"""The types of the rows of quantised word embeddings."""
PARTS_OF_VERSION_3 = ("quantised", "shared")
ADDED: Mapping[int, Mapping[str, Any]] = {
    4: {"dropout": "dropout", "after": None, "pairs": None},
    5: {"norms": [], "queries": None},
}
"""Version -> the keys that it adds to an attention, with what an attention of an earlier version has under them."""
CALLS_OF_VERSION_1 = {
    "self": "encoder",  # BERT, RoBERTa, ELECTRA
    "attention": "encoder",  # DistilBERT
    "self_attn": "seq2seq",  # BART, Marian
    "encoder_attn": "seq2seq",
    "SelfAttention": "seq2seq_bias",  # T5
    "EncDecAttention": "seq2seq_bias",
}


@dataclass(frozen=True)
class AttentionStructure:
    """The heads that an attention keeps, how they are stored, and how the stock layer calls the attention.

    Attributes:
        call: one of `CALLS`.
        query, key, value, output: names of the projections, one name if one Linear gives queries, keys and values;
            `output` is None if it is not a child of the attention.
        causal: whether a token attends only to itself and those before it when no mask is passed.
        layer: number of the layer in its stack; a cache stores keys and values under it.
        bias: name of the child that is the table of relative position biases; None if the attention has none.
        dropout: name of the stock attribute that is the dropout of the probabilities: a module, or a probability.
        after: name of the child that the output passes through last, None if there is none.
        norms: names of the children that norm the queries and the keys of each head; empty if there are none.
        heads: number of each stored head in the stock model if a relative position bias is added to the scores; else
            None.
        qk, vo: dims that each stored head keeps; where heads share keys and values, here and below, those of each
            stored KV head.
        pairs: of each stored head the pairs of QK dims that it keeps, if positions are rotary; pair i is rotated by
            angle i. Its first dims are stored first, then its second ones. A head that is padded to its whole width
            has all pairs at their places, in `qk` too, and zeros where they are removed.
        scale: factor of the scores before the softmax; if they are a sum of n terms, it is divided by the root of n.
        buckets: number of heads in each bucket.
        multiple: the width of every bucket is a multiple of this.
        queries: how many heads share each stored KV head, None if none do.
    """

    call: str
    query: str
    key: str
    value: str
    output: str | None
    causal: bool
    layer: int
    bias: str | None
    dropout: str
    after: str | None
    heads: tuple[int, ...] | None
    qk: tuple[int, ...]
    vo: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...] | None
    scale: float
    buckets: tuple[int, ...]
    multiple: int
    norms: tuple[str, ...]
    queries: tuple[int, ...] | None

    @classmethod
    def from_dict(cls, path: str, entry: Any) -> AttentionStructure:
        """Check the entry of the attention at `path`, and read it.

        Raises:
            ValueError: the message names what is wrong.
        """
        if not isinstance(entry, dict) or set(entry) != {one.name for one in fields(cls)}:
            raise ValueError(
                f"{KEY} describes the attention {path!r} wrongly: expected exactly the keys of its version"
            )
        if wrong := _wrong_part(entry):
            raise ValueError(f"{KEY} describes {wrong} of the attention {path!r} wrongly")
        return cls(**_as_tuples(entry))


@dataclass(frozen=True)
class Structure:
    """How a compact model differs from the stock model: path of a module -> its new size, or what replaces it.

    Attributes:
        linear: `(out, in)` of a Linear.
        norm: dims of a norm.
        embedding: dims of an embedding, of words or of the patches of an image.
        factorised: rank of an embedding that is a table `(rows, rank)` and a projection `(dims, rank)`.
        attention: the heads that an attention keeps.
        bias: outputs of a Linear of which only the bias is left.
        replaced: one of `REPLACEMENTS`.
        quantised: one of `QUANTISED`: the type of the rows of an embedding, or of the table of a factorised one.
        shared: path of the factorised or quantised embedding whose table an embedding or an output layer uses.
    """

    linear: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    norm: Mapping[str, int] = field(default_factory=dict)
    embedding: Mapping[str, int] = field(default_factory=dict)
    factorised: Mapping[str, int] = field(default_factory=dict)
    attention: Mapping[str, AttentionStructure] = field(default_factory=dict)
    bias: Mapping[str, int] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    quantised: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> set[str]:
        """The names of all modules that it is about."""
        return {path for part in fields(self) for path in getattr(self, part.name)}

    def under(self, prefix: str, modules: Container[str]) -> Structure:
        """The part that concerns the model under a prefix, whose modules are named without it."""
        parts = {}
        for part in fields(self):
            named = {path.removeprefix(prefix): entry for path, entry in getattr(self, part.name).items()}
            parts[part.name] = {path: entry for path, entry in named.items() if path in modules}
        parts["shared"] = {path: owner.removeprefix(prefix) for path, owner in parts["shared"].items()}
        return Structure(**parts)

    def within(self, prefix: str, modules: Container[str]) -> Structure:
        """What it is for a model that has this one under a prefix; what is not among its `modules` is left out."""
        parts = {}
        for part in fields(self):
            named = {f"{prefix}{path}": entry for path, entry in getattr(self, part.name).items()}
            parts[part.name] = {path: entry for path, entry in named.items() if path in modules}
        parts["shared"] = {path: f"{prefix}{owner}" for path, owner in parts["shared"].items()}
        return Structure(**parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"version": VERSION, **_as_json(asdict(self))}

    @classmethod
    def from_dict(cls, data: Any) -> Structure:
        """Check a `secateur` key of this version or an older one before a model is built from it, and read it.

        Raises:
            ValueError: the message names what is wrong.
        """
        version = data.get("version") if isinstance(data, dict) else type(data).__name__
        if not isinstance(data, dict) or type(version) is not int or version not in (*OLDER, VERSION):
            raise ValueError(
                f"{KEY} has version {version!r}, and this code reads {OLDER[0]} to {VERSION}: update secateur"
            )
        parts = {name: part for name, part in data.items() if name != "version"}
        names = [one.name for one in fields(cls) if version >= 3 or one.name not in PARTS_OF_VERSION_3]
        if set(parts) != set(names) or not all(isinstance(part, dict) for part in parts.values()):
            raise ValueError(f"{KEY} must hold exactly {', '.join(sorted(names))} and version")
        parts = {one.name: {} for one in fields(cls)} | parts
        _check_sizes(parts)
        entries = parts["attention"]
        if version == 1:
            entries = {path: _with_call(path, entry) for path, entry in entries.items()}
        entries = {path: _with_added(entry, version) for path, entry in entries.items()}
        linear = {path: (out, into) for path, (out, into) in parts["linear"].items()}
        attention = {path: AttentionStructure.from_dict(path, entry) for path, entry in entries.items()}
        return cls(**parts | {"linear": linear, "attention": attention})


def _as_json(value: Any) -> Any:
    """The value with lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    """The value with tuples in place of lists."""
    if isinstance(value, dict):
        return {name: _as_tuples(inner) for name, inner in value.items()}
    return tuple(_as_tuples(inner) for inner in value) if isinstance(value, list) else value


def _check_sizes(parts: Mapping[str, Any]) -> None:
    """Check the parts other than `attention`: they hold sizes and the names of replacements only."""
    sizes = [[size] for part in ("norm", "embedding", "factorised", "bias") for size in parts[part].values()]
    if not all(_whole(size, 1) for size in [*sizes, *parts["linear"].values()]):
        raise ValueError(f"{KEY} has a size that is not a positive whole number")
    if not all(len(pair) == 2 for pair in parts["linear"].values()):
        raise ValueError(f"{KEY} has a linear module without exactly two sizes")
    if not all(name in REPLACEMENTS for name in parts["replaced"].values()):
        raise ValueError(f"{KEY} replaces a module by something unknown: expected one of {', '.join(REPLACEMENTS)}")
    if not all(name in QUANTISED for name in parts["quantised"].values()):
        raise ValueError(f"{KEY} quantises an embedding to something unknown: expected {', '.join(QUANTISED)}")
    if not all(isinstance(path, str) for path in parts["shared"].values()):
        raise ValueError(f"{KEY} shares an embedding whose path is no text")


def _wrong_part(entry: Mapping[str, Any]) -> str:
    """What is wrong with the entry of an attention; empty if it is correct."""
    names = [entry[name] for name in ("query", "key", "value", "dropout")]
    names += [entry[name] for name in ("output", "bias", "after") if entry[name] is not None]
    names += entry["norms"] if isinstance(entry["norms"], list) else [entry["norms"]]
    if entry["call"] not in CALLS or type(entry["causal"]) is not bool or not _whole([entry["layer"]], 0):
        return "the call"
    if not all(isinstance(name, str) for name in names):
        return "the names of the modules"
    if not (_whole(entry["buckets"], 1) and _whole([entry["multiple"]], 1)):
        return "the buckets"
    if type(entry["scale"]) is not float or not math.isfinite(entry["scale"]):
        return "the scale"
    return _wrong_heads(entry)


def _wrong_heads(entry: Mapping[str, Any]) -> str:
    if not (_whole(entry["qk"], 0) and _whole(entry["vo"], 1)):
        return "the dims of the heads"
    count = len(entry["qk"])
    if not count == len(entry["vo"]) == sum(entry["buckets"]):
        return "the number of heads"
    heads = list(range(count)) if entry["heads"] is None else entry["heads"]
    if not (_whole(heads, 0) and len(set(heads)) == len(heads) == count):
        return "the numbers of the heads"
    queries = entry["queries"]
    if queries is not None and not (_whole(queries, 1) and len(queries) == count):
        return "the heads that share keys and values"
    return "" if _paired(entry) else "the pairs of rotary dims"


def _paired(entry: Mapping[str, Any]) -> bool:
    """Whether the pairs of dims are there if positions are rotary, as many as the heads have dims."""
    pairs = entry["pairs"]
    if entry["call"] not in ROTARY or pairs is None:
        return entry["call"] not in ROTARY and pairs is None
    rising = isinstance(pairs, list) and all(_whole(own, 0) and sorted(set(own)) == own for own in pairs)
    return rising and [2 * len(own) for own in pairs] == entry["qk"] and entry["multiple"] % 2 == 0


def _whole(sizes: Any, least: int) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and size >= least for size in sizes)


def _with_added(entry: Any, version: int) -> Any:
    """An entry of a version with the keys that later versions add."""
    added = {key: value for later, keys in ADDED.items() if later > version for key, value in keys.items()}
    return {**added, **entry} if isinstance(entry, dict) else entry


def _with_call(path: str, entry: Any) -> Any:
    """An entry of version 1 with the keys that version 2 adds, which follow from the names of modules."""
    name, numbers = path.rpartition(".")[2], [int(part) for part in path.split(".") if part.isdigit()]
    if not isinstance(entry, dict) or name not in CALLS_OF_VERSION_1 or not numbers:
        return entry
    self_attention, decoder = name in ("self_attn", "SelfAttention"), "decoder" in path.split(".")
    return {
        "call": CALLS_OF_VERSION_1[name],
        "causal": self_attention and decoder,
        "layer": numbers[0],
        "bias": "relative_attention_bias" if name == "SelfAttention" and numbers[0] == 0 else None,
        "heads": None,
        **entry,
    }
