"""What a cut model is made of: stock Hugging Face modules with smaller tensors, and the six modules below.

This file is self-contained (torch and transformers alone) because a copy of it lies in every compact folder, as
`modeling_secateur.py`. It knows no architecture: the `secateur` key of `config.json` says, path by path, what to resize
and what to replace, and `reshape` does it, to a model that is being cut and to a skeleton that is being loaded alike.

The key, version 1, names only what differs from the stock model:

    {"version": 1,
     "linear":    {path: [out, in]},          resized torch.nn.Linear
     "norm":      {path: size},               resized torch.nn.LayerNorm
     "embedding": {path: size},               resized embedding dimension
     "factorised": {path: rank},              an embedding as table (rows, rank) and projection (size, rank)
     "attention": {path: {"query": name, "key": name, "value": name, "output": name or null,
                          "qk": [per kept head], "vo": [per kept head], "scale": softmax scale,
                          "buckets": [heads in each], "multiple": of the buckets' widths}},
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
SUMS = "SHA256SUMS"
SUM = re.compile(r"([0-9a-f]{64})  ([^/\\:]+)")  # a line: a digest, two spaces, the name of a file in the folder
KINDS = ("weight", "bias")
MANY = 256  # tokens from which joining weights, as large as those of some hundred tokens, pays
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
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

    The empty `weight` makes a stock model refuse the checkpoint: of a missing tensor transformers only warns.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0, 0))

    def forward(self, input: Tensor) -> Tensor:
        return input.new_zeros(())


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
    """Self-attention whose heads have sizes of their own, QK apart from VO.

    The heads are stored in buckets, one after the other, each padded with zeros to the bucket's width, QK and VO
    each, so that one attention call serves a bucket. Zero QK dims add nothing to the scores and zero VO dims meet zero
    columns of the output projection: the padding is exact and stays zero in training. The softmax scale is that of the
    heads before pruning.
    """

    dropout: nn.Dropout

    def __init__(self, stock: Any, spec: dict[str, Any]) -> None:  # a family's own module: no type has its names
        super().__init__()
        self.qk, self.vo, self.scale = tuple(spec["qk"]), tuple(spec["vo"]), float(spec["scale"])
        self.buckets = _buckets(spec)
        self.names = (spec["query"], spec["key"], spec["value"])
        self.dropout = stock.dropout
        self.config = stock.config
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
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        context = self.attend(hidden_states, attention_mask) if self.qk else hidden_states[..., :0]
        return (getattr(self, self.output)(context) if self.output else context), None

    def attend(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`(batch, tokens, hidden)` to the heads' contexts side by side, `(batch, tokens, VO dims as stored)`."""
        projected = zip(*self._project(hidden_states), strict=True)
        contexts = [
            self._mix(bucket[0], parts, attention_mask) for bucket, parts in zip(self.buckets, projected, strict=True)
        ]
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1)

    def _mix(self, heads: int, parts: tuple[Tensor, ...], attention_mask: Tensor | None) -> Tensor:
        """One attention call: query, key and value `(batch, tokens, heads x width)` each, to the contexts."""
        batch, tokens, _ = parts[0].shape
        query, key, value = (part.view(batch, tokens, heads, -1).transpose(1, 2) for part in parts)
        dropout, own = self.dropout.p if self.training else 0.0, value.shape[-1]
        if query.device.type == "cpu" and not (self.training or _recorded()):
            query, key, value = _of_one_width(query, key, value)
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=self.scale
        )
        return context[..., :own].transpose(1, 2).reshape(batch, tokens, -1)

    def _project(self, hidden_states: Tensor) -> list[tuple[Tensor, ...]]:
        """Query, key and value, each split by bucket, `(batch, tokens, heads of it x width)`."""
        sizes = [[heads * width for heads, width, _ in self.buckets]] * 2
        sizes.append([heads * width for heads, _, width in self.buckets])
        if self._at_once(hidden_states):
            weight, bias = (torch.cat([getattr(getattr(self, n), kind) for n in self.names]) for kind in KINDS)
            whole = functional.linear(hidden_states, weight, bias).split([sum(part) for part in sizes], dim=-1)
        else:
            whole = [getattr(self, name)(hidden_states) for name in self.names]
        return [part.split(size, dim=-1) for part, size in zip(whole, sizes, strict=True)]

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
            _resize(model.get_submodule(path), weight=(size,), bias=(size,), normalized_shape=(size,))
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
            model.set_submodule(path, CompactAttention(model.get_submodule(path), spec))
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
        shape = [n if n is not None else old.shape[dim] for dim, n in enumerate(size)]
        setattr(module, name, nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))


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
        if not isinstance(spec, dict) or set(spec) != names or not (_whole(spec["qk"], 0) and _whole(spec["vo"], 1)):
            raise ValueError(f"the config's secateur key describes the attention {path!r} wrongly")
        if not (_whole(spec["buckets"], 1) and _whole([spec["multiple"]], 1)):
            raise ValueError(f"the config's secateur key describes the buckets of the attention {path!r} wrongly")
        if (
            not len(spec["qk"]) == len(spec["vo"]) == sum(spec["buckets"])
            or type(spec["scale"]) is not float
            or not math.isfinite(spec["scale"])
        ):
            raise ValueError(f"the config's secateur key gives the attention {path!r} heads that do not fit together")


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
    for name in ("config.json", PLAN, SUMS, *(path.name for path in folder.glob("*.safetensors*"))):
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
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        folder = Path(save_directory)
        if not is_main_process:
            return
        shutil.copyfile(__file__, folder / f"{CODE}.py")
        names = ["config.json", f"{CODE}.py", *(path.name for path in folder.glob("model*.safetensors*"))]
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
