"""Random inputs for timing models, and the checks that the models can run on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.graph import example_images, is_encoder_decoder, with_target
from secateur.structure.images import PIXELS, ImageShape, image_shape, image_tokens
from secateur.structure.positions import positions
from secateur.surgery.padding import check_padding
from secateur.system.errors import UserError

Reads = int | ImageShape
"""What models read: ids below that number, or images of that shape."""


def random_inputs(reads: Reads, batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids and a mask of ones, both `(batch, tokens)`; or `batch` random images."""
    if not isinstance(reads, int):
        return {PIXELS: example_images(reads, batch, seed)}
    ids = torch.randint(reads, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}


def as_tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays as tensors on the CPU."""
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def padded_inputs(model: PreTrainedModel, *, rows: int = 16, tokens: int = 24) -> dict[str, torch.Tensor]:
    """A batch of random ids for a model, whose rows have different lengths, so that padding is part of a comparison.

    For a model that reads images, so many of them.

    Raises:
        UserError: the model has no padding token, and needs one.
    """
    if (shape := image_shape(model)) is not None:
        return as_tensors(random_inputs(shape, rows, tokens))
    check_padding(model, rows)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    mask = (torch.arange(tokens) < lengths).long()
    padded = torch.where(mask > 0, ids, model.config.pad_token_id or 0)
    return with_target(model, {"input_ids": padded, "attention_mask": mask})


def read_by(models: Sequence[PreTrainedModel], files: Iterable[ExportFacts] = ()) -> Reads:
    """What all of these models and exported files read: ids below the smallest vocabulary, or images.

    Raises:
        UserError: they do not read the same.
    """
    files = list(files)
    shapes = {image_shape(model) for model in models} | {facts.image for facts in files}
    if len(shapes) > 1:
        raise UserError("expected models that all read texts, or images of one size, got others: measure them apart")
    shape = shapes.pop()
    if shape is not None:
        return shape
    recorded = (facts.vocabulary for facts in files if facts.vocabulary is not None)
    return min([*(model.config.vocab_size for model in models), *recorded])


def tokens_read(models: Sequence[PreTrainedModel], asked: int) -> int:
    """The tokens of a row: as many as are asked for, or those of an image, which has as many as its model makes."""
    return next((own for model in models if (own := image_tokens(model)) is not None), asked)


def check_counts(*, warmup: int = 0, **counts: int | None) -> None:
    """Refuse numbers that are out of range: `warmup` below 0, any other below 1; None is not checked.

    Raises:
        UserError: naming the number.
    """
    for name, number, least in (*((name, number, 1) for name, number in counts.items()), ("warmup", warmup, 0)):
        if number is not None and number < least:
            raise UserError(f"expected {name} of at least {least}, got {number}: raise it")


def check_models(models: Sequence[PreTrainedModel], batch: int, tokens: int) -> None:
    """Refuse models that cannot all be run on the same `batch` rows of random tokens.

    Raises:
        UserError: models on different devices, one whose inputs are not tokens, one with too few positions, or one
            without a padding token for several rows.
    """
    if len(devices := sorted({str(model.device) for model in models})) > 1:
        raise UserError(f"expected all models on one device, got {' and '.join(devices)}: move them with model.to()")
    for model in models:
        if image_tokens(model) is not None:
            continue
        _check_inputs(model)
        check_padding(model, batch)
        check_positions(type(model).__name__, positions(model), tokens)


def check_positions(name: str, limit: int | None, tokens: int) -> None:
    """Refuse more tokens than what is called `name` has positions; None is no limit.

    Raises:
        UserError: naming both numbers.
    """
    if limit is not None and tokens > limit:
        raise UserError(f"expected at most {limit} tokens, the positions that {name} has, got {tokens}: ask for fewer")


def _check_inputs(model: PreTrainedModel) -> None:
    name = type(model).__name__
    if getattr(model.config, "vocab_size", None) is None:
        raise UserError(
            f"expected a model with token inputs, got {name}, whose config has no vocab_size: measure a model of texts "
            "or of images"
        )
    if name.endswith("ForMultipleChoice"):
        raise UserError(
            f"expected a model that reads (batch, tokens), got {name}, which reads several choices a row: measure its "
            "encoder"
        )
    if is_encoder_decoder(model) and name.endswith("ForSequenceClassification"):
        raise UserError(
            f"expected a model that reads any ids, got {name}, which needs the end of a text in each row: measure it "
            "without this head"
        )
