"""Models of which only some pieces are kept: inputs in the numbers before and after, and outputs over pieces."""

import torch
from tiny_models import LEADING, OF_IMAGES

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.token_numbers import token_numbers


def shares_its_pieces(which):
    """Whether there is a vocabulary, one for encoder and decoder, of one of the models of `tiny_models`."""
    kind, _, shape = which.values[0]
    return kind not in OF_IMAGES and (kind, shape) != ("marian", 1)


SHARING = tuple(model for model in LEADING if shares_its_pieces(model))


def every_second(model):
    """The pieces that the model needs, and every second of the others."""
    size = model.config.vocab_size
    return Vocabulary(size, tuple(sorted({*range(1, size, 2)} | token_numbers(model))))


def in_both_numbers(batch, vocabulary):
    """A batch of kept pieces in the numbers before and in those after: each piece of `batch`, or the kept one after."""
    kept = torch.tensor(vocabulary.kept)
    new = {
        name: torch.searchsorted(kept, ids).clamp(max=len(kept) - 1)
        for name, ids in batch.items()
        if name.endswith("input_ids")
    }
    return batch | {name: kept[ids] for name, ids in new.items()}, batch | new


def of_kept_pieces(tensors, vocabulary):
    """Tensors by name, those over the vocabulary for the kept pieces alone."""
    kept = torch.tensor(vocabulary.kept)
    return {name: one[..., kept] if one.shape[-1] == vocabulary.size else one for name, one in tensors.items()}
