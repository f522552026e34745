"""Whether a checkpoint and the model that was loaded from it have the same weights.

transformers reports weights that a model lacks, or does not take, and goes on: the model then computes something else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.system.errors import UserError


def check_whole(model: PreTrainedModel, loading: Mapping[str, Collection[str]], source: str) -> None:
    """Refuse a model that lacks weights, or does not take all those of its checkpoint.

    A pooler that the head does not read may be left over, because older versions of transformers saved one with every
    head, and so may what the family names (`Architecture.left_over`); and a bare encoder may lack its pooler, because a
    checkpoint of a head without one does.

    Args:
        loading: what `from_pretrained` returns with `output_loading_info`.
        source: the checkpoint, as the message calls it.

    Raises:
        UserError: naming the first weight.
    """
    bare = model.base_model is model and not model.can_generate()
    _refuse_missing([key for key in loading["missing_keys"] if not (bare and _of_pooler(key))], source)
    _refuse_unexpected(model, loading["unexpected_keys"], source)


def check_encoder(model: PreTrainedModel, loading: Mapping[str, Collection[str]], source: str) -> None:
    """As `check_whole`, of a model whose head is new, or left out: only the encoder must be the checkpoint's.

    Raises:
        UserError: naming the first weight.
    """
    missing, unexpected = (
        [key for key in loading[name] if _of_encoder(key, model)] for name in ("missing_keys", "unexpected_keys")
    )
    _refuse_missing([key for key in missing if not _of_pooler(key)], source)
    _refuse_unexpected(model, unexpected, source)


def outside_encoder(model: PreTrainedModel, keys: Collection[str]) -> list[str]:
    """Those of the names of weights that are no part of the encoder, in order."""
    return sorted(key for key in keys if not _of_encoder(key, model))


def _refuse_missing(keys: Collection[str], source: str) -> None:
    if keys:
        raise UserError(
            f"{source} lacks {len(keys)} of the weights that its config.json asks for "
            f"(the first is {min(keys)}): give a complete checkpoint"
        )


def _refuse_unexpected(model: PreTrainedModel, keys: Collection[str], source: str) -> None:
    """Refuse weights that a model does not take, but for those that may be left over."""
    keys = [key for key in keys if not (_of_pooler(key) or _left_over(key, model))]
    if keys:
        raise UserError(
            f"{source} has {len(keys)} weights that {type(model).__name__} does not take (the first is {min(keys)}): "
            "give a checkpoint that transformers loads whole, with adapters merged"
        )


def _of_pooler(key: str) -> bool:
    return ".pooler." in f".{key}"


def _left_over(key: str, model: PreTrainedModel) -> bool:
    """Whether checkpoints of the model's family may hold a tensor of this name that no model of it reads."""
    family = ARCHITECTURES.all().get(model.config.model_type)
    return family is not None and key.removeprefix(f"{model.base_model_prefix}.") in family.left_over


def _of_encoder(key: str, model: PreTrainedModel) -> bool:
    """Whether a weight, named with or without the prefix of the base model, is one of the base model's."""
    base, prefix = model.base_model, f"{model.base_model_prefix}."
    return key.startswith(prefix) or key.partition(".")[0] in dict(base.named_children())
