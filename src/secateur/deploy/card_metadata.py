"""What the hub reads in the header of a model's card: which library loads the model, its task, and where it is from.

The terms are the hub's own. `base_model_relation` is one of adapter, merge, quantized and finetune: a pruned model is
no adapter and no merge, and not the same network in fewer bits either, because its weights were trained further after
units were removed; so it is a finetune.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers import PreTrainedModel

from secateur.surgery.auto_classes import auto_class_of
from secateur.surgery.cross_encoders import KEY as CROSS_ENCODER
from secateur.surgery.hub import may_be_on_hub
from secateur.surgery.sentence.attach import head_of
from secateur.system.errors import UserError, reason_of

RELATION = "finetune"
TASKS = {
    "AutoModel": "feature-extraction",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageClassification": "image-classification",
}
"""The class that loads a head -> the name of its task on the hub; a model that writes texts may have several."""
EMBEDDING, RANKING = "sentence-similarity", "text-ranking"
TAGS = {
    EMBEDDING: ("sentence-transformers", "feature-extraction"),
    RANKING: ("sentence-transformers", "cross-encoder", "reranker"),
}
"""Task on the hub -> the tags that the cards of sentence-transformers have for it."""
OWN_TAGS = ("pruned", "structured-pruning", "secateur")
KEYS = ("base_model", "base_model_relation", "library_name", "pipeline_tag", "tags", "license", "datasets")
"""What the hub reads, besides `model-index`, which only the report of a run can fill."""


class Kind(NamedTuple):
    """How the hub files a model.

    Attributes:
        library: that its page shows how to load the model with.
        task: the hub's `pipeline_tag`; None if the model alone does not tell.
        tags: of the library, to search by.
    """

    library: str
    task: str | None
    tags: tuple[str, ...]


def kind_of(model: PreTrainedModel, task: str | None = None) -> Kind:
    """How the hub files a model.

    Args:
        task: its task on the hub, where that is known from elsewhere.
    """
    if head_of(model) is not None:
        task = EMBEDDING
    elif task is None:
        ranks = model.config.num_labels == 1 and getattr(model.config, CROSS_ENCODER, None)
        task = RANKING if ranks else TASKS.get(auto_class_of(model.config))
    return Kind("sentence-transformers" if task in TAGS else "transformers", task, TAGS.get(task or "", ()))


def on_hub(name: str) -> bool:
    """Whether a name is that of something on the hub, and not of a file or folder here."""
    return may_be_on_hub(name) and not Path(name).exists()


def header_in(text: str, source: str) -> dict[str, Any]:
    """The header of a card, as the hub reads it; empty if the card has none.

    Raises:
        UserError: it is not YAML, or its numbers (`model-index`) are not in the hub's form.
    """
    if REGEX_YAML_BLOCK.search(text) is None:
        return {}
    try:
        return ModelCard(text).data.to_dict()
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"the header of {source} cannot be read ({reason_of(error)}): correct it") from error


def with_keys(text: str, values: Mapping[str, Any]) -> str:
    """A card with more keys at the end of its header; what is there stays as it is, byte for byte.

    Only a key that is there without a value goes: the header would have it twice.
    """
    if not values:
        return text
    lines = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    found = REGEX_YAML_BLOCK.search(text)
    if found is None:
        return f"---\n{lines}---\n\n{text}"
    line_break = "\r\n" if found[1].endswith("\r\n") else "\n"
    empty = rf"^(?:{'|'.join(map(re.escape, values))}):[ \t]*(?:null|~)?[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\Z)"
    present = re.sub(empty, "", found[2], flags=re.MULTILINE)
    if present != found[2]:  # the last key may have gone
        present = present.removesuffix("\n").removesuffix("\r")
    header = (present + line_break if present else "") + lines.rstrip("\n").replace("\n", line_break)
    return text[: found.start(2)] + header + text[found.end(2) :]
