"""A pruning method of your own in one file. Run it (`python examples/add_a_method.py`), or copy and change it.

The method is a simple version of Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
Inference, ICLR 2017: it accumulates the first-order importance of all units for a while, ranks them once and removes
all units below the density at once, where the paper repeats this in many rounds.

Below the class, a tiny model learns a synthetic task and is pruned by this method, by magnitude and at random. That
takes seconds.
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

import secateur
from secateur.methods.method import Amount
from secateur.methods.scheduled import Scheduled


@secateur.methods.register("taylor-once")
class TaylorOnce(Scheduled):
    """Keeps the units whose removal would change the loss most, by gradients accumulated until pruning begins.

    Equations, by the paper's sections:
        sec 2.2  importance of a unit = |dL/dz z|, which is |dL/dmask| for a mask z = 1                 `observe`
        sec 2.2  its mean over the data; here the sum over the steps, which ranks units alike           `observe`

    The masks are those of `Method`: 1 for the units that are alive. `Scheduled` removes units along a schedule and
    never restores one.

    Where it differs from the paper: the units are those of a Transformer. They are ranked once, by importance over the
    root of the number of parameters, so that units of different sizes can be compared: the importance is the absolute
    value of a sum of as many terms of either sign. The paper ranks again after each removal and normalises the
    importance within each layer.
    """

    importance: Tensor

    def __init__(self, space: secateur.Space, share: Amount | None = None, density: Amount | None = None) -> None:
        super().__init__(space, share, density)
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))  # (N,), in checkpoints too

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> secateur.Schedule:
        """All at once, when pruning begins."""
        return secateur.linear(1.0, density, begin=begin, end=begin)

    @property
    def listens_to(self) -> Mapping[str, float]:
        """The loss terms of labels and logits, until the first unit is removed."""
        return {} if self.progress > self.share_schedule.begin else {"labels": 1.0, "logits": 1.0}

    def observe(self, gradient: Tensor) -> None:
        """Add the absolute gradient `(N,)` of the observed loss in one optimizer step."""
        self.importance += gradient.abs()

    def scores(self) -> Tensor:
        """`(N,)` importance over the root of the number of parameters."""
        return self.importance / self.space.unit_cost().sqrt()


# A tiny model and task to try it on


def synthetic_rows(rows: int, seed: int) -> list[dict[str, Tensor]]:
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


def train(model: PreTrainedModel, epochs: float, **options: Any) -> None:
    """Train on synthetic rows, with further arguments of `PruningTrainer`; no file is kept."""
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
        trainer = secateur.PruningTrainer(model, args=arguments, train_dataset=synthetic_rows(512, seed=1), **options)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def prune(teacher: PreTrainedModel, name: str, density: float) -> PreTrainedModel:
    """A copy of the teacher, pruned with distillation and cut."""
    model = copy.deepcopy(teacher)
    kind = secateur.methods.METHODS.get(name)
    method = kind(secateur.Space(model, "ffn", "qk", "vo"), kind.schedule(density, begin=0.3, end=0.6))
    train(model, 3, method=method, teacher=teacher, objective=[secateur.Logits(temperature=2.0)])
    return secateur.cut(model, method.plan(density))


@torch.no_grad()
def accuracy(model: PreTrainedModel) -> float:
    """The accuracy on synthetic rows that are not in the training set."""
    rows = synthetic_rows(512, seed=2)
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return float((model.eval()(**batch).logits.argmax(-1) == batch["labels"]).float().mean())


def main() -> None:
    """Train a tiny model, prune it by three methods, and print the results."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # more threads make a model this small slower
    teacher = tiny_model()
    train(teacher, 6)
    print(f"{'method':<12} {'density':>8} {'parameters':>11} {'accuracy':>9}")
    print(f"{'(dense)':<12} {1:>8} {teacher.num_parameters():>11,} {accuracy(teacher):>9.3f}")
    for name in (TaylorOnce.name, "magnitude", "random"):
        small = prune(teacher, name, density=0.1)
        plan: Any = small.plan  # a cut model carries its plan
        kept = plan["achieved"]["prunable"]
        print(f"{name:<12} {kept:>8.3f} {small.num_parameters():>11,} {accuracy(small):>9.3f}")


if __name__ == "__main__":
    main()
