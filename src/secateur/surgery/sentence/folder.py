"""The folders of sentence-transformers: an encoder at the top, and the modules after it, each in a folder of its own.

modules.json                        the modules in their order
config_sentence_transformers.json   prompts, and how vectors are compared
sentence_bert_config.json           the most tokens of a text
1_Pooling/config.json               how the states of tokens become one vector
2_Dense/                            config.json and model.safetensors of a linear layer, if there is one
3_Normalize/                        nothing

They are written in the form that every version since 2.0 reads, but for several poolings in an order that only
`pooling_mode` of version 5.6 can state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.structure.binding import SENTENCE_HEAD
from secateur.surgery.hub import file_of
from secateur.surgery.sentence.head import POOLINGS, Dense, SentenceHead, Settings
from secateur.surgery.sentence.similarity import SIMILARITIES
from secateur.system.errors import UserError, as_user_error
from secateur.system.files import read_json

MODULES, OVERALL, ENCODER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
WEIGHTS = "model.safetensors"
"""The file of the weights of a Dense, in its folder."""
OLD_ENCODERS = tuple(
    f"sentence_{family}_config.json"
    for family in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of that file in old folders; the first of all these that says anything counts."""
TYPE = "sentence_transformers.models."
"""Before the name of a module's class, in folders of every version."""
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Key of a config before version 5.6 -> the pooling that it turns on. Vectors are concatenated in this order."""
ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}
"""Name of an activation in the config of a Dense -> its class."""
DOCUMENT, OTHER_DOCUMENTS = "document", ("passage", "corpus")
"""Names of the prompt that `encode_document` takes. From 5.0 on the library has an empty `document` where a folder
states none, so that it passes over the others."""
FOLLOWING = ("Dense", "Normalize", "Dropout")
"""The modules that may follow a pooling."""
FILES = (MODULES, OVERALL, ENCODER, *OLD_ENCODERS)
"""The files at the top of a folder, besides the encoder's own."""


def read_head(name: str | Path) -> SentenceHead | None:
    """The sentence head of a model folder, or of a model on the hub; None if it is none of sentence-transformers.

    Raises:
        UserError: a module is not supported, or a file is missing or damaged.
    """
    modules = _json(name, MODULES)
    if modules is None:
        return None
    with as_user_error(f"{MODULES} of {name} cannot be read", "give a folder that sentence-transformers has saved"):
        places = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]
    _check_order(places, name)
    pooled = _known(name, f"{places[1][1]}/config.json")
    poolings, width = _poolings(pooled, name), pooled.get("embedding_dimension", pooled.get("word_embedding_dimension"))
    dense = [_dense(name, place) for kind, place in places if kind == "Dense"]
    normalise = any(kind == "Normalize" for kind, _ in places)
    if dense and len(poolings) > 1:
        raise UserError(f"{name} has a Dense after several poolings, which is not supported: give a model with one")
    if type(width) is not int or (dense and dense[0].linear.in_features != width):
        raise UserError(f"{name} has a pooling of {width!r} dims that does not fit its Dense: save the model again")
    return SentenceHead(poolings, dense, normalise, width=width, settings=read_settings(name))


def pools_states(name: str | Path) -> bool:
    """Whether a model folder, or a model on the hub, is one of sentence-transformers that pools states of tokens.

    Its encoder is all that its weights are, whatever class with a head its config names.
    """
    modules = _json(name, MODULES)
    kinds = [one.get("type") for one in modules or () if isinstance(one, dict)]
    return any(str(kind).rpartition(".")[2] == "Pooling" for kind in kinds)


def new_head(pooling: str, width: int, settings: Settings | None = None) -> SentenceHead:
    """A head for a bare encoder: one pooling, and vectors of length 1.

    Raises:
        UserError: there is no such pooling.
    """
    _check_pooling(pooling, "the option pooling")
    return SentenceHead([pooling], width=width, settings=settings)


def read_settings(name: str | Path) -> Settings:
    """The prompts, the similarity and the longest text of a model; those of a model that states none without files.

    A prompt of documents that is named otherwise is `document` as well.

    Raises:
        UserError: a file is damaged, or its vectors are compared in a way that is not known.
    """
    overall = _json(name, OVERALL) or {}
    encoder: dict[str, Any] = next((found for file in (ENCODER, *OLD_ENCODERS) if (found := _json(name, file))), {})
    longest, prompts = encoder.get("max_seq_length"), overall.get("prompts") or {}
    similarity = overall.get("similarity_fn_name")
    if similarity not in (None, *SIMILARITIES):
        raise UserError(f"{OVERALL} of {name} compares by {similarity!r}: expected one of {', '.join(SIMILARITIES)}")
    return Settings(
        _with_document({str(key): str(text) for key, text in prompts.items()}),
        overall.get("default_prompt_name"),
        similarity,
        longest if type(longest) is int and longest > 0 else None,
        bool(encoder.get("do_lower_case")),
    )


def _with_document(prompts: dict[str, str]) -> dict[str, str]:
    other = next((prompts[name] for name in OTHER_DOCUMENTS if prompts.get(name)), None)
    return prompts if other is None else {DOCUMENT: other, **prompts}


def dense_files(folder: Path) -> dict[Path, str]:
    """The weights of the linear layers of a folder's head -> what the names of their tensors begin with in the model.

    Raises:
        UserError: modules.json is damaged.
    """
    modules = [one for one in _json(folder, MODULES) or () if isinstance(one, dict)]
    places = [PurePath(str(one.get("path"))).name for one in modules if str(one.get("type")).endswith(".Dense")]
    files = {folder / place / WEIGHTS: f"{SENTENCE_HEAD}.dense.{number}." for number, place in enumerate(places)}
    return {file: prefix for file, prefix in files.items() if file.is_file()}


def write_head(head: SentenceHead, folder: Path, state: Mapping[str, Tensor] | None = None) -> list[str]:
    """Write the files of a head beside the encoder in a folder, and return the names of those at the top of it.

    Args:
        state: the tensors that are written, by their names in the head; None for its own.
    """
    places = list(_places(head))
    _write(folder / MODULES, modules_of(places))
    _write(folder / OVERALL, _overall(head.settings))
    longest = {} if head.settings.max_length is None else {"max_seq_length": head.settings.max_length}
    _write(folder / ENCODER, longest | {"do_lower_case": head.settings.lower_case})
    layers, state = iter(enumerate(head.dense)), head.state_dict() if state is None else state
    for kind, place in places[1:]:
        (folder / place).mkdir(exist_ok=True)
        if kind == "Pooling":
            _write(folder / place / "config.json", _pooling(head))
        elif kind == "Dense":
            number, layer = next(layers)
            _write_dense(layer, _below(f"dense.{number}.", state), folder / place)
    return [MODULES, OVERALL, ENCODER]


def modules_of(places: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """The content of `modules.json` for the kind and the folder of each module."""
    return [
        {"idx": number, "name": str(number), "path": place, "type": TYPE + kind}
        for number, (kind, place) in enumerate(places)
    ]


def _places(head: SentenceHead) -> Iterator[tuple[str, str]]:
    """The kind and the folder of each module."""
    kinds = ["Pooling", *["Dense"] * len(head.dense), *["Normalize"] * head.normalise]
    yield "Transformer", ""
    yield from ((kind, f"{number}_{kind}") for number, kind in enumerate(kinds, start=1))


def _pooling(head: SentenceHead) -> dict[str, Any]:
    own = {key: pooling in head.poolings for key, pooling in OLD_POOLINGS.items()}
    if head.poolings == tuple(pooling for key, pooling in OLD_POOLINGS.items() if own[key]):
        return {"word_embedding_dimension": head.width, **own}
    return {"embedding_dimension": head.width, "pooling_mode": list(head.poolings), "include_prompt": True}


def _overall(settings: Settings) -> dict[str, Any]:
    return {
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt,
        "similarity_fn_name": settings.similarity,
    }


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _write_dense(layer: Any, state: Mapping[str, Tensor], folder: Path) -> None:
    linear: nn.Linear = layer.linear
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": names[type(layer.activation)],
    }
    _write(folder / "config.json", config)
    written = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(written, folder / WEIGHTS, {"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode & 0o777)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_order(places: list[tuple[str, str]], name: str | Path) -> None:
    kinds = [kind for kind, _ in places]
    odd = next((kind for kind in kinds[2:] if kind not in FOLLOWING), None)
    if kinds[:2] != ["Transformer", "Pooling"] or odd or "Normalize" in kinds[2:-1]:
        raise UserError(
            f"{name} has the modules {', '.join(kinds)}: expected a Transformer, a Pooling, and after them Dense and "
            "at last Normalize, so give a model of these"
        )
    if any(PurePath(place).name != place for _, place in places[1:]):
        raise UserError(f"{MODULES} of {name} names folders outside it: copy or save the model again")
    if places[0][1]:
        raise UserError(
            f"{name} has its encoder in {places[0][1]!r}, as sentence-transformers before 2.0 did: save it again"
        )


def _poolings(config: Mapping[str, Any], name: str | Path) -> tuple[str, ...]:
    """The poolings of a config; several are concatenated in this order."""
    if config.get("include_prompt") is False:
        raise UserError(f"{name} leaves the tokens of its prompt out of the pooling, which is not supported")
    own = config.get("pooling_mode")
    named = [own] if isinstance(own, str) else list(own or ())
    poolings = named or [pooling for key, pooling in OLD_POOLINGS.items() if config.get(key)]
    for pooling in poolings or ["none"]:
        _check_pooling(pooling, f"1_Pooling/config.json of {name}")
    return tuple(poolings)


def _check_pooling(pooling: Any, source: str) -> None:
    if pooling not in POOLINGS:
        raise UserError(f"{source} asks for the pooling {pooling!r}: expected one of {', '.join(POOLINGS)}")


def _dense(name: str | Path, place: str) -> Dense:
    """A linear layer with its weights."""
    config, path = _known(name, f"{place}/config.json"), file_of(name, f"{place}/{WEIGHTS}")
    activation = ACTIVATIONS.get(str(config.get("activation_function")))
    plain = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
    if activation is None or config.get("use_residual") or not plain or path is None:
        raise UserError(
            f"{place} of {name} is not supported: expected a Dense without residual, with one of the activations "
            f"{', '.join(name.rpartition('.')[2] for name in ACTIVATIONS)}, and its weights in {WEIGHTS}"
        )
    with as_user_error(f"{path} cannot be read", "copy or save the model again"):
        layer = Dense(config["in_features"], config["out_features"], bool(config.get("bias", True)), activation())
        weights = load_file(path)
        layer.linear.load_state_dict({key.removeprefix("linear."): tensor for key, tensor in weights.items()})
    return layer.float()


def _known(name: str | Path, file: str) -> dict[str, Any]:
    config = _json(name, file)
    if not isinstance(config, dict):
        raise UserError(f"{name} has no readable {file}, which its {MODULES} asks for: copy or save the model again")
    return config


def _json(name: str | Path, file: str) -> Any:
    """The content of a file of JSON; None if there is no such file.

    Raises:
        UserError: it is damaged.
    """
    path = file_of(name, file)
    return None if path is None else read_json(path)
