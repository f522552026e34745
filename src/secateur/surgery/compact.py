"""What a cut model is made of: stock Hugging Face modules with smaller tensors, and the modules below.

This file is self-contained (torch and transformers alone) because a copy of it lies in every compact folder, as
`modeling_secateur.py`. It knows no architecture: the `secateur` key of `config.json` says, path by path, what to resize
and what to replace, and `reshape` does it, to a model that is being cut and to a skeleton that is being loaded alike.

The key, version 1, names only what differs from the stock model:

    {"version": 1,
     "linear":    {path: [out, in]},          resized torch.nn.Linear
     "norm":      {path: size},               resized norm
     "embedding": {path: size},               resized embedding dimension
     "factorised": {path: rank},              an embedding as table (rows, rank) and projection (size, rank)
     "attention": {path: {"query": name, "key": name, "value": name, "output": name or null,
                          "qk": [per kept head], "vo": [per kept head], "scale": softmax scale,
                          "buckets": [heads in each], "multiple": of the buckets' widths,
                          "heads": [number of each kept head], where scores take a bias by head}},
     "bias":      {path: size},               a Linear of which only the bias is left
     "replaced":  {path: "zero" | "empty" | "identity" | "skip"}}

Beside it `SHA256SUMS` says which bytes belong together, as `sha256sum` writes and checks it: shapes alone would not
tell a flipped bit, the weights of another model or an edited key. It is written by every `save_pretrained`, and
optional: a folder without it is judged by its shapes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

VERSION = 1
CODE = "modeling_secateur"
PREFIX = "Pruned"
PLAN = "plan.json"
GENERATION = "generation_config.json"
SUMS = "SHA256SUMS"
SUM = re.compile(r"([0-9a-f]{64})  ([^/\\:]+)")  # a line: a digest, two spaces, the name of a file in the folder
KINDS = ("weight", "bias")
MANY = 256  # tokens from which joining weights, as large as those of some hundred tokens, pays
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
}


class Bias(nn.Module):
    """A Linear of which only the bias is left.

    The sublayer behind it has no units any more, but its bias still speaks.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(like.new_empty(size))
        self.register_buffer("weight", like.new_empty(size, 0))  # no stock model takes this shape, see `Zero`

    def forward(self, input: Tensor) -> Tensor:
        return self.bias.expand(*input.shape[:-1], -1)


class Zero(nn.Module):
    """A removed sublayer's output: a scalar 0 that the residual connection adds.

    The empty `weight` makes a stock model refuse the checkpoint: of a missing tensor transformers only warns. In
    training the 0 is a sum over the input, of no width: what is before it, such as a norm, has a gradient of 0 then, as
    in the masked model, where none would make optimizers pass it over.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0, 0))

    def forward(self, input: Tensor) -> Tensor:
        return input.sum() if input.requires_grad else input.new_zeros(())


class Skip(nn.Module):
    """What adds a sublayer's result to the stream, where the sublayer is gone: the stream as it is.

    Its children stay under their names, for the same reason as the `weight` of `Zero`.
    """

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        for name, child in stock.named_children():
            self.add_module(name, child)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return input_tensor


class Empty(nn.Module):
    """A Linear without outputs: `(..., any)` to `(..., 0)`."""

    def forward(self, input: Tensor) -> Tensor:
        return input[..., :0]


class FactorisedEmbedding(nn.Module):
    """Word embeddings as a table `(rows, rank)` and a projection to `(size,)` without bias (GRAIN, section 4.4)."""

    def __init__(self, rows: int, size: int, rank: int, padding_idx: int | None, **where: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, rank, padding_idx=padding_idx, **where)
        self.projection = nn.Linear(rank, size, bias=False, **where)

    @classmethod
    def like(cls, stock: nn.Embedding, rank: int) -> FactorisedEmbedding:
        """Of a stock embedding's shape, device and type; not filled with its values."""
        where = {"device": stock.weight.device, "dtype": stock.weight.dtype}
        return cls(stock.num_embeddings, stock.embedding_dim, rank, stock.padding_idx, **where)

    @property
    def weight(self) -> Tensor:
        """The whole table `(rows, size)`, for what reads an embedding's shape."""
        return self.table.weight @ self.projection.weight.T

    def forward(self, input: Tensor) -> Tensor:
        return self.projection(self.table(input))


class CompactAttention(nn.Module):
    """Attention whose heads have sizes of their own, QK apart from VO.

    The heads are stored in buckets, one after the other, each padded with zeros to the bucket's width, QK and VO
    each, so that one attention call serves a bucket. Zero QK dims add nothing to the scores and zero VO dims meet zero
    columns of the output projection: the padding is exact and stays zero in training. The softmax scale is that of the
    heads before pruning.

    It is self-attention, causal where the stock module is, or attention to other states (`key_value_states`). While a
    text is generated, a cache holds the keys and values of all heads as those of one, whatever the buckets.
    """

    dropout: nn.Dropout

    def __init__(self, stock: Any, spec: dict[str, Any]) -> None:  # a family's own module: no type has its names
        super().__init__()
        self.qk, self.vo, self.scale = tuple(spec["qk"]), tuple(spec["vo"]), float(spec["scale"])
        self.buckets = _buckets(spec)
        self.names = (spec["query"], spec["key"], spec["value"])
        self.dropout = stock.dropout if isinstance(stock.dropout, nn.Dropout) else nn.Dropout(stock.dropout)
        self.config = stock.config
        self.causal = bool(getattr(stock, "is_causal", False))
        self.layer_idx: Any = getattr(stock, "layer_idx", None)
        if self.qk:
            for name, place in zip(self.names, (1, 1, 2), strict=True):
                projection, outputs = getattr(stock, name), sum(bucket[0] * bucket[place] for bucket in self.buckets)
                if projection.out_features != outputs:
                    raise ValueError(f"{name} has {projection.out_features} outputs, those of its heads are {outputs}")
                setattr(self, name, projection)
        self.output = spec["output"]
        if self.output:
            setattr(self, self.output, getattr(stock, self.output))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        parts = self.states(hidden_states, key_value_states, past_key_values)
        return self.written(parts, [attention_mask] * len(self.buckets)), None

    def states(self, hidden_states: Tensor, memory: Tensor | None, cache: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Query, and keys and values of all tokens so far, `(batch, tokens, dims as stored)` each.

        Without heads there is no query, and the key tells the number of tokens alone.
        """
        if cache is None and memory is None and self.qk:
            return self._project(hidden_states)
        held, filled = self._held(cache, memory is not None)
        if filled and self.qk:
            return self._projected(0, hidden_states), filled.keys.squeeze(1), filled.values.squeeze(1)
        source = hidden_states if memory is None else memory
        if self.qk:
            query, key, value = (self._projected(n, source if n else hidden_states) for n in range(3))
        else:
            query, key = hidden_states[..., :0], source[..., :1]  # of no width a cache does not know its length
            value = key
        if held is None or (memory is not None and not self.qk):
            return query, key, value
        key, value = held.update(key.unsqueeze(1), value.unsqueeze(1), self.layer_idx)
        if memory is not None and held is not cache:
            cache.is_updated[self.layer_idx] = True
        return query, key.squeeze(1), value.squeeze(1)

    def _held(self, cache: Any, other: bool) -> tuple[Any, Any]:
        """The part of a cache that is for this attention, and its layer if it has all of the `other` states already."""
        if not isinstance(cache, transformers.EncoderDecoderCache):
            return cache, None
        held = cache.cross_attention_cache if other else cache.self_attention_cache
        return held, held.layers[self.layer_idx] if other and cache.is_updated.get(self.layer_idx) else None

    def written(self, parts: tuple[Tensor, Tensor, Tensor], masks: list[Tensor | None]) -> Tensor:
        """What the sublayer says, from query, keys and values, and the mask of each bucket."""
        context = parts[0]
        if self.qk:
            split = (part.split(sizes, dim=-1) for part, sizes in zip(parts, self._sizes(), strict=True))
            buckets = zip(self.buckets, zip(*split, strict=True), masks, strict=True)
            contexts = [self._mix(bucket[0], own, mask) for bucket, own, mask in buckets]
            context = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1)
        return getattr(self, self.output)(context) if self.output else context

    def _mix(self, heads: int, parts: tuple[Tensor, ...], attention_mask: Tensor | None) -> Tensor:
        """One attention call: query, key and value `(batch, tokens, heads x width)` each, to the contexts."""
        batch, tokens, _ = parts[0].shape
        query, key, value = (part.view(batch, part.shape[1], heads, -1).transpose(1, 2) for part in parts)
        dropout, own = self.dropout.p if self.training else 0.0, value.shape[-1]
        if query.device.type == "cpu" and not (self.training or _recorded()):
            query, key, value = _of_one_width(query, key, value)
        context = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=self.scale,
            is_causal=self.causal and attention_mask is None and tokens > 1,
        )
        return context[..., :own].transpose(1, 2).reshape(batch, tokens, -1)

    def _sizes(self) -> list[list[int]]:
        """Dims of each bucket as stored: of the query, the key and the value."""
        sizes = [[heads * width for heads, width, _ in self.buckets]] * 2
        return [*sizes, [heads * width for heads, _, width in self.buckets]]

    def _project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the same states."""
        if self._at_once(hidden_states):
            weight, bias = (self._joined(kind) for kind in KINDS)
            query, key, value = functional.linear(hidden_states, weight, bias).split(
                [sum(part) for part in self._sizes()], dim=-1
            )
            return query, key, value
        query, key, value = (self._projected(number, hidden_states) for number in range(3))
        return query, key, value

    def _projected(self, number: int, states: Tensor) -> Tensor:
        return getattr(self, self.names[number])(states)

    def _joined(self, kind: str) -> Any:
        """The weights, or the biases if there are any, of query, key and value."""
        own = [getattr(getattr(self, name), kind) for name in self.names]
        return None if own[0] is None else torch.cat(own)

    def _at_once(self, hidden_states: Tensor) -> bool:
        """Whether one product of the joined weights is faster: for many tokens, or where joining is done once.

        Compilers and exporters fold it. The joined weights are not kept here: optimizers change weights in ways that
        leave no trace by which to know that they are old.
        """
        if _recorded():
            return True
        query = getattr(self, self.names[0])
        if query._forward_hooks or type(query) is not nn.Linear:  # masks act at its output, or at the weights
            return False
        return not self.training and hidden_states.shape[:-1].numel() >= MANY


class BiasedAttention(CompactAttention):
    """One whose scores take a bias by head and distance, which the first layer of a stack makes for all layers.

    It makes and hands on the bias of every head that there was, whichever are left here, because other layers read it,
    and takes the part of its own heads. A function registered for attentions would do the same for heads that are
    whole; heads of unequal sizes need this module anyway.
    """

    def __init__(self, stock: Any, spec: dict[str, Any]) -> None:
        super().__init__(stock, spec)
        self.heads = list(spec["heads"])
        self.make_bias = None
        if stock.has_relative_attention_bias:
            self.relative_attention_bias = stock.relative_attention_bias
            self.make_bias = stock.compute_bias  # reads the embedding above, which is one with the stock module's

    def forward(  # type: ignore[override]  # called as the module that it stands for
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        seen = past_key_values.get_seq_length(self.layer_idx) if past_key_values is not None else 0
        seen = seen.clone() if isinstance(seen, Tensor) else seen  # a static cache counts on in place
        parts = self.states(hidden_states, key_value_states, past_key_values)
        if position_bias is None and self.make_bias is not None:
            lengths = hidden_states.shape[1], parts[1].shape[1]
            position_bias = self.make_bias(*lengths, device=hidden_states.device, past_seen_tokens=seen)
        output = self.written(parts, self._masks(position_bias, mask))
        if self.training and self.make_bias is not None and not self.qk and position_bias is not None:
            output = output + 0.0 * position_bias.sum()  # optimizers skip what has no gradient, and decay what has 0
        return output, position_bias, None

    def _masks(self, bias: Tensor | None, mask: Tensor | None) -> list[Tensor | None]:
        """What each bucket's scores take: the bias `(1, heads, queries, keys)` and the mask, additive or bool."""
        if bias is None or not self.heads:
            return [mask] * len(self.buckets)
        own = bias[:, self.heads]
        if mask is None and self.causal and own.shape[2] > 1:
            mask = torch.ones(own.shape[2:], dtype=torch.bool, device=own.device).tril()
        if mask is not None:
            least = torch.finfo(own.dtype).min
            own = torch.where(mask, own, least) if mask.dtype == torch.bool else own + mask
        return list(own.split([heads for heads, _, _ in self.buckets], dim=1))


def _recorded() -> bool:
    """Whether a compiler or an exporter looks on, which finds its own way to run what it sees."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _of_one_width(*parts: Tensor) -> Iterator[Tensor]:
    """Heads padded with zeros to the widest part: PyTorch's fused attention on CPUs takes no other."""
    widest = max(part.shape[-1] for part in parts)
    return (functional.pad(part, (0, widest - part.shape[-1])) if part.shape[-1] < widest else part for part in parts)


def _buckets(spec: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(heads, QK width, VO width) of each bucket of an attention's structure."""
    ends = list(accumulate(spec["buckets"], initial=0))
    return [
        (b - a, *(-(-max(1, *spec[name][a:b]) // spec["multiple"]) * spec["multiple"] for name in ("qk", "vo")))
        for a, b in pairwise(ends)
    ]


def reshape(model: nn.Module, structure: dict[str, Any]) -> None:
    """Give a stock model the shapes and modules of a structure (the `secateur` key); new tensors are not filled.

    Raises:
        ValueError: the structure is of another version, or does not fit the model.
    """
    check(structure)
    tied = first_names(model)
    try:
        for path, rank in structure["factorised"].items():
            stock = model.get_submodule(path)
            if isinstance(stock, nn.Embedding):
                model.set_submodule(path, FactorisedEmbedding.like(stock, rank))
        for path, size in structure["embedding"].items():
            module = model.get_submodule(path)
            if isinstance(module, FactorisedEmbedding):
                _resize(module.projection, weight=(size, None), out_features=size)
            else:
                _resize(module, weight=(None, size), embedding_dim=size)
        for path, size in structure["norm"].items():
            module = model.get_submodule(path)
            own = {"bias": (size,), "normalized_shape": (size,)} if isinstance(module, nn.LayerNorm) else {}
            _resize(module, weight=(size,), **own)
        for path, (out, into) in structure["linear"].items():
            _resize(model.get_submodule(path), weight=(out, into), bias=(out,), out_features=out, in_features=into)
        for path, size in structure["bias"].items():
            model.set_submodule(path, Bias(size, model.get_parameter(f"{path}.weight")))
        for path, kind in sorted(structure["replaced"].items(), key=lambda item: item[1] == "skip"):
            stock = model.get_submodule(path)  # raises where nothing is: `set_submodule` would put the new module there
            if kind == "zero":
                model.set_submodule(path, Zero(model.get_parameter(f"{path}.weight")))
            elif kind == "skip":
                model.set_submodule(path, Skip(stock))
            else:
                model.set_submodule(path, {"empty": Empty, "identity": nn.Identity}[kind]())
        for path, spec in structure["attention"].items():
            kind = BiasedAttention if "heads" in spec else CompactAttention
            model.set_submodule(path, kind(model.get_submodule(path), spec))
        for name, first in tied.items():
            if name != first:
                path, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(path), leaf, model.get_parameter(first))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the secateur key of the config does not fit this model: {error}") from error


def _resize(module: nn.Module, **sizes: Any) -> None:
    """Replace parameters by empty ones of a new shape (None keeps a dimension); set the attributes that repeat it."""
    for name, size in sizes.items():
        old = getattr(module, name)
        if not isinstance(old, nn.Parameter):
            if old is not None:
                setattr(module, name, size)
            continue
        if len(size) != old.dim():
            raise TypeError(f"{type(module).__name__} has a {name} of {old.dim()} dimensions, not {len(size)}")
        shape = [n if n is not None else old.shape[dim] for dim, n in enumerate(size)]
        setattr(module, name, nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> the first name of the same parameter: another one where weights are tied."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in named}


def tied_names(model: nn.Module) -> set[str]:
    """The further names of tied parameters."""
    return {name for name, first in first_names(model).items() if name != first}


def check(structure: Any) -> None:
    """Refuse what is not a structure of this version, before anything is built from it.

    Raises:
        ValueError: in one sentence, what is wrong.
    """
    parts = {"linear", "norm", "embedding", "factorised", "attention", "bias", "replaced"}
    if not isinstance(structure, dict) or structure.get("version") != VERSION:
        found = structure.get("version") if isinstance(structure, dict) else type(structure).__name__
        raise ValueError(f"the config's secateur key has version {found!r}: this code reads version {VERSION}")
    if set(structure) != parts | {"version"} or not all(isinstance(structure[part], dict) for part in parts):
        raise ValueError(f"the config's secateur key must hold exactly {', '.join(sorted(parts))} and version")
    sizes = [[size] for part in ("norm", "embedding", "factorised", "bias") for size in structure[part].values()]
    if not all(_whole(size, 1) for size in [*sizes, *structure["linear"].values()]):
        raise ValueError("the config's secateur key has a size that is not a positive whole number")
    if not all(len(pair) == 2 for pair in structure["linear"].values()):
        raise ValueError("the config's secateur key has a linear module without exactly two sizes")
    if not all(kind in ("zero", "empty", "identity", "skip") for kind in structure["replaced"].values()):
        raise ValueError("the config's secateur key replaces a module by something unknown")
    for path, spec in structure["attention"].items():
        names = {"query", "key", "value", "output", "qk", "vo", "scale", "buckets", "multiple"}
        if (
            not isinstance(spec, dict)
            or set(spec) - {"heads"} != names
            or not (_whole(spec["qk"], 0) and _whole(spec["vo"], 1))
        ):
            raise ValueError(f"the config's secateur key describes the attention {path!r} wrongly")
        if not (_whole(spec["buckets"], 1) and _whole([spec["multiple"]], 1)):
            raise ValueError(f"the config's secateur key describes the buckets of the attention {path!r} wrongly")
        if (
            not len(spec["qk"]) == len(spec["vo"]) == sum(spec["buckets"])
            or type(spec["scale"]) is not float
            or not math.isfinite(spec["scale"])
        ):
            raise ValueError(f"the config's secateur key gives the attention {path!r} heads that do not fit together")
        numbers = spec.get("heads", list(range(len(spec["qk"]))))
        if not _whole(numbers, 0) or not len(set(numbers)) == len(numbers) == len(spec["qk"]):
            raise ValueError(f"the config's secateur key numbers the heads of the attention {path!r} wrongly")


def _whole(sizes: Any, least: int) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and size >= least for size in sizes)


# The files of a saved folder


class DamagedError(ValueError):
    """A folder is not what was saved: one sentence, what is wrong with which file, and what to do."""


def sums(folder: Path, names: Iterable[str]) -> str:
    """Lines of `SHA256SUMS` for files of a folder."""
    return "".join(f"{_digest(folder / name)}  {name}\n" for name in sorted(names))


def check_sums(folder: Path) -> None:
    """Refuse a folder in which a file that `SHA256SUMS` lists is not there or has other bytes.

    It costs a reading of every file: 0.05 s for 50 MB where the processor has instructions for SHA-256.

    Raises:
        DamagedError: naming the file.
    """
    if not (folder / SUMS).is_file():
        return
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    lines = [SUM.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    for line in lines:
        if line is None:
            raise DamagedError(
                f"{folder / SUMS} is damaged: expected lines as sha256sum writes them; copy or save the model again"
            )
        digest, name = line.groups()
        _check_place(folder, name)
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name} is missing, and {SUMS} lists it: copy the whole folder again")
        if _digest(folder / name) != digest:
            raise DamagedError(
                f"{folder / name} is not the file that was saved: copy or save the model again, or remove its line "
                f"in {SUMS} if it was changed on purpose"
            )


def check_places(folder: Path) -> None:
    """Refuse to read anything outside the folder, where a link leads or a name in JSON points there.

    Links into `blobs` stay, for the hub's cache keeps its files so.

    Raises:
        DamagedError: naming the file.
    """
    for name in ("config.json", GENERATION, PLAN, SUMS, *(path.name for path in folder.glob("*.safetensors*"))):
        _check_place(folder, name)
    for index in folder.glob("*.safetensors.index.json"):
        shards = _object(index).get("weight_map")
        names = shards.values() if isinstance(shards, dict) else [None]
        if not all(isinstance(name, str) and PurePath(name).name == name for name in names):
            raise DamagedError(f"{index} names weights that are no files of its folder: copy or save the model again")


def _check_place(folder: Path, name: str) -> None:
    path, home = folder / name, Path(os.path.realpath(folder))
    real = Path(os.path.realpath(path))
    inside = real.is_relative_to(home) or real.parent == home.parent.parent / "blobs"
    if os.path.lexists(path) and not (inside and real.is_file()):
        raise DamagedError(f"{path} is no file of its folder: put the file itself there, not a link or a device")


def _digest(path: Path) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}): expected JSON; copy or save the model again") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path} is damaged: expected an object of JSON; copy or save the model again")
    return data


# Only a type checker sees the base that every stock class brings along; at run time the mixin has none of its own.
if TYPE_CHECKING:
    _Stock = PreTrainedModel
else:
    _Stock = object


class Pruned(_Stock):
    """Put before a stock model class: shapes the model as its config says, and dense models stay stock."""

    stock: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.plan: dict[str, Any] | None = None
        if getattr(config, "secateur", None):
            reshape(self, config.secateur)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a checkpoint without a `secateur` key gives the stock class.

        Raises:
            DamagedError: a local folder's files are not those that were saved, or other weights than safetensors are
                asked for. What comes from the hub is as its client has checked it.
        """
        name, config = pretrained_model_name_or_path, kwargs.get("config")
        if config is None:
            config = cls.config_class.from_pretrained(name)
        if not getattr(config, "secateur", None):
            return cls.stock.from_pretrained(name, *args, **kwargs)
        if kwargs.get("use_safetensors") is False or getattr(config, "transformers_weights", None):
            raise DamagedError(f"{name} asks for other weights than its model.safetensors: nothing else is opened")
        folder = Path(name)
        if folder.is_dir():
            check_places(folder)
            check_sums(folder)
        plan = _object(folder / PLAN) if (folder / PLAN).is_file() else None
        loaded = super().from_pretrained(name, *args, **{**kwargs, "use_safetensors": True})
        (loaded[0] if isinstance(loaded, tuple) else loaded).plan = plan
        return loaded

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        if not getattr(config, "secateur", None):
            return cls.stock._from_config(config, **kwargs)
        return super()._from_config(config, **kwargs)

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """As in transformers, and the code and the plan that make the folder self-describing, and the sums of all."""
        self._keys_to_ignore_on_save = None  # what stock models make anew when loaded (sinusoids) may be cut here
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        folder = Path(save_directory)
        if not is_main_process:
            return
        shutil.copyfile(__file__, folder / f"{CODE}.py")
        names = ["config.json", f"{CODE}.py", *(path.name for path in folder.glob("model*.safetensors*"))]
        names += [GENERATION] if (folder / GENERATION).is_file() else []
        if self.plan is not None:
            (folder / PLAN).write_text(json.dumps(self.plan, indent=1) + "\n", encoding="utf-8")
            names.append(PLAN)
        (folder / SUMS).write_text(sums(folder, names), encoding="utf-8")


def pruned(stock: type[PreTrainedModel]) -> type[Pruned]:
    """The `Pruned` class of a stock model class, `PrunedBertModel` of `BertModel`; made once."""
    name = PREFIX + stock.__name__
    if name not in globals():
        globals()[name] = type(name, (Pruned, stock), {"stock": stock, "__module__": __name__})
    return globals()[name]


def auto_class(name: str) -> str:
    """The `AutoModelFor*` that loads a model class of this name.

    Raises:
        ValueError: none does.
    """
    for suffix in sorted(AUTO_CLASSES, key=len, reverse=True):
        if name.endswith(suffix):
            return AUTO_CLASSES[suffix]
    raise ValueError(f"no class of transformers for {', '.join(AUTO_CLASSES)} is named {name!r}")


def __getattr__(name: str) -> type:
    """`modeling_secateur.PrunedBertModel`, for any stock class: what `auto_map` in a saved config asks for."""
    stock = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pruned(stock)
