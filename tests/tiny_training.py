"""Trainings of tiny models, of some steps each, for the laws of training."""

import torch
from quiet import arguments
from tiny_models import of_images, tiny

from secateur import methods
from secateur.budget.space import Space
from secateur.methods.schedules import cubic
from secateur.structure.encoded_rows import EXAMPLE
from secateur.surgery.quantisation import quantise_embeddings
from secateur.surgery.sentence.attach import head_of
from secateur.training.objectives import Hidden, Labels, Logits
from secateur.training.sentence_terms import Embedding, Similarity
from secateur.training.step import INDEX
from secateur.training.trainer import PruningTrainer

STEPS = 6
UNITS = ("ffn", "qk", "vo")
SCHEDULE = cubic(1.0, 0.4, begin=0.2, end=0.7)


def images():
    """Rows of images, each with a label."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(24, 3, 8, 8, generator=generator)
    return [{"pixel_values": one, "labels": (one.mean() > 0).long()} for one in pixels]


def examples(writes=False, vocabulary=50):
    """Rows with a label each, or, for a generating model, the target tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (24, 7), generator=generator)
    lengths = torch.randint(3, 8, (24,), generator=generator)
    mask = (torch.arange(7) < lengths[:, None]).long()
    labels = ids.flip(1)[:, :5] if writes else ids[:, 0] % 2
    rows = zip(ids, mask, labels, strict=True)
    return [{"input_ids": i, "attention_mask": m, "labels": label} for i, m, label in rows]


def rows_for(model):
    """Rows that a model reads, with a label each, or the target tokens of one that writes; texts alone for vectors."""
    if of_images(model):
        return images()
    rows = examples(model.config.is_encoder_decoder)
    if head_of(model) is None:
        return rows
    return [{name: value for name, value in row.items() if name != "labels"} for row in rows]


def pairs():
    """Rows of texts without labels, two of each example: an anchor and its positive."""
    return [
        {
            "input_ids": row["input_ids"],
            "attention_mask": row["attention_mask"],
            INDEX: torch.tensor(n),
            EXAMPLE: n // 2,
        }
        for n, row in enumerate(examples())
    ]


def terms(model, **hidden):
    """The terms of labels and logits, or of the vectors of a sentence head, and of hidden states of every stack."""
    stacks = ("encoder", "decoder") if model.config.is_encoder_decoder else (None,)
    of_head = [Labels(), Logits(temperature=4.0)] if head_of(model) is None else [Embedding(), Similarity()]
    return [*of_head, *(Hidden(layers="every 1", stack=stack, **hidden) for stack in stacks)]


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != EXAMPLE}


def trainer(
    which,
    name,
    folder,
    *,
    units=UNITS,
    schedule=SCHEDULE,
    seed=1,
    save="steps",
    every=1,
    keep=None,
    options=None,
    training=None,
    **others,
):
    """Student, method and terms from scratch; dropout is on, so the random state matters as well.

    A student that is not pruned is a compact one with word embeddings in int8, if it has any.

    Args:
        save: when checkpoints are written, of which the last `keep` stay.
        every: the number of steps between two checkpoints.
        options: of the method.
        training: further or other options of the trainer.
        others: further arguments of the training.
    """
    student, teacher = (tiny(*which, dtype=torch.float32, dropout=0.1, seed=s) for s in (seed, 2))
    space = Space(student, *units)
    method = name and methods.METHODS.get(name)(space, schedule, **(options or {}))
    student = student if name or of_images(student) else quantise_embeddings(student)
    args = arguments(
        folder,
        STEPS,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        warmup_steps=1,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy=save,
        save_steps=every,
        save_total_limit=keep,
        **others,
    )
    given = {"objective": terms(student), "train_dataset": rows_for(student), "data_collator": collate}
    return PruningTrainer(student, method=method, teacher=teacher, args=args, **(given | (training or {})))


def losses(trainer):
    """The log of every step, without its timings."""
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{key: value for key, value in entry.items() if "per_second" not in key} for entry in entries]
