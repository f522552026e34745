"""A small trainer that prunes, on the rows of `test_trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from quiet import arguments
from test_trainer import STEPS, collate
from tiny_models import tiny
from transformers import PreTrainedModel, PrinterCallback

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.schedules import cubic
from secateur.training.trainer import PruningTrainer


def student(**options: Any) -> PreTrainedModel:
    """A small BERT in fp32; transformers would set the type of its problem at the first forward with labels."""
    model: PreTrainedModel = tiny("bert", dtype=torch.float32, problem_type="single_label_classification", **options)
    return model


def small_trainer(
    folder: Path, method: str | None, model: PreTrainedModel, bf16: bool = False, **options: Any
) -> PruningTrainer:
    """A trainer of six steps over eight rows, which prunes from the first step on."""
    ids = torch.randint(5, 50, (8, 5), generator=torch.Generator().manual_seed(0))
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 2} for row in ids]
    chosen = METHODS.get(method)(Space(model, "ffn", "head"), cubic(1.0, 0.5, begin=0.1, end=0.7)) if method else None
    trainer = PruningTrainer(
        model,
        method=chosen,
        args=arguments(folder, STEPS, learning_rate=1e-2, bf16=bf16),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
