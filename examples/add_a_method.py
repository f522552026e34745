"""A method of one's own in one file: Taylor once. Run it (`python examples/add_a_method.py`) or copy it.

The method is a toy after Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference,
ICLR 2017, without its many rounds: watch the units for a while, rank them once, remove them at once.

Below the class a tiny model learns a made-up task and is pruned by the method, by magnitude and at random, in seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
)

from secateur.budget.space import Space
from secateur.methods import METHODS, register
from secateur.methods.method import Amount
from secateur.methods.scheduled import Scheduled
from secateur.methods.schedules import Schedule, linear
from secateur.surgery.cut import cut
from secateur.training.objectives import Logits
from secateur.training.trainer import PruningTrainer


@register("taylor-once")
class TaylorOnce(Scheduled):
    """Keeps the units whose removal would change the loss most, by gradients summed until pruning begins.

    Equations, by the paper's sections:
        sec 2.2  importance of a unit = |dL/dz z|, which for a mask z = 1 is |dL/dmask|         `observe`
        sec 2.2  its mean over the data seen; here the sum over steps, of the same order        `observe`

    Masks are those of `Method`, 1 for what is alive; `Scheduled` removes along a schedule and never revives.

    Where it differs from the paper: units are those of a Transformer and are ranked once, per parameter, so that units
    of different kinds compare; the paper ranks anew after each removal and normalises by layer.
    """

    importance: Tensor

    def __init__(self, space: Space, share: Amount | None = None, density: Amount | None = None) -> None:
        super().__init__(space, share, density)
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))  # (N,), in checkpoints too

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """All at once, when pruning begins."""
        return linear(1.0, density, begin=begin, end=begin)

    @property
    def listens_to(self) -> Mapping[str, float]:
        """Labels and logits, until the first unit goes."""
        return {} if self.progress > self.asked.begin else {"labels": 1.0, "logits": 1.0}

    def observe(self, gradient: Tensor) -> None:
        """Add `(N,)` |d(heard loss)/d(mask)| of one optimizer step."""
        self.importance += gradient.abs()

    def scores(self) -> Tensor:
        """`(N,)` importance per parameter."""
        return self.importance / self.space.unit_cost()


# The tiny world that it is tried in


def made_up(rows: int, seed: int) -> list[dict[str, Tensor]]:
    """Sequences of 8 ids in [4, 24); class 1 where more than half of them are below 14."""
    ids = torch.randint(4, 24, (rows, 8), generator=torch.Generator().manual_seed(seed))
    labels = ((ids < 14).sum(dim=1) > 4).long()
    mask = torch.ones(8, dtype=torch.long)
    return [{"input_ids": i, "attention_mask": mask, "labels": label} for i, label in zip(ids, labels, strict=True)]


def tiny_model() -> PreTrainedModel:
    """A random BERT of two layers."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=24, max_position_embeddings=8, hidden_size=32, **sizes)
    return BertForSequenceClassification(config)


def train(model: PreTrainedModel, epochs: float, **parts: Any) -> None:
    """Some epochs on made-up rows, with whatever parts of `PruningTrainer`; nothing is kept on disk."""
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=4e-3,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = PruningTrainer(model, args=arguments, train_dataset=made_up(512, seed=1), **parts)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def prune(teacher: PreTrainedModel, name: str, density: float) -> PreTrainedModel:
    """A copy of the teacher, pruned under distillation and cut; the method is made as a recipe would make it."""
    model = copy.deepcopy(teacher)
    kind: Any = METHODS.get(name)
    method = kind(Space(model, "ffn", "qk", "vo"), kind.schedule(density, begin=0.3, end=0.6))
    train(model, 3, method=method, teacher=teacher, objective=[Logits(temperature=2.0)])
    return cut(model, method.plan(density))


@torch.no_grad()
def accuracy(model: PreTrainedModel) -> float:
    """On made-up rows that no model has seen."""
    rows = made_up(512, seed=2)
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return float((model.eval()(**batch).logits.argmax(-1) == batch["labels"]).float().mean())


def main() -> None:
    """Teach a tiny model, prune it in three ways, print what is left."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # more only get in each other's way in a model this small
    teacher = tiny_model()
    train(teacher, 6)
    print(f"{'method':<12} {'density':>8} {'parameters':>11} {'accuracy':>9}")
    print(f"{'(dense)':<12} {1:>8} {teacher.num_parameters():>11,} {accuracy(teacher):>9.3f}")
    for name in (TaylorOnce.name, "magnitude", "random"):
        small = prune(teacher, name, density=0.1)
        plan: Any = small.plan  # a cut model says what was kept
        kept = plan["achieved"]["prunable"]
        print(f"{name:<12} {kept:>8.3f} {small.num_parameters():>11,} {accuracy(small):>9.3f}")


if __name__ == "__main__":
    main()
