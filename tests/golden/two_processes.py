"""G13's run of CoFi, in one process or in two that average their gradients.

As a script, both processes: `two_processes.py FOLDER` writes `FOLDER/RANK.safetensors` with what each saw and what it
ended with.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for golden_bert, when run as a script

import torch
from golden_bert import build_bert
from quiet import arguments
from safetensors.torch import save_file
from torch import Tensor
from two_ranks import in_both

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.schedules import linear
from secateur.training.objectives import Hidden, Logits
from secateur.training.trainer import PruningTrainer

STEPS = 6


def rows() -> list[dict[str, Tensor]]:
    """48 examples of 8 tokens."""
    noise = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 50, (48, 8), generator=noise)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 3} for row in ids]


class Watched(PruningTrainer):
    """Keeps the tokens and the masks of every forward."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not hasattr(self, "kept"):
            self.kept = {"tokens": [], "masks": []}
        self.kept["tokens"].append(inputs["input_ids"].clone())
        self.kept["masks"].append(self.attachment.masks.detach().clone())
        return loss


def run(folder: Path | str, batch: int) -> dict[str, Tensor]:
    """Train over `batch` rows a step and process: tokens and masks of every step, gates, multipliers, weights."""
    torch.manual_seed(0)
    student = build_bert(seed=0)
    space = Space(student, "hidden", "head", "sublayer", "ffn")
    schedule = linear(1.0, 0.4, begin=0.1, end=0.8)
    method = Cofi(space, schedule, learning_rate=0.1, constraint="lagrangian")
    with torch.no_grad():
        method.log_alpha.normal_(1.0, 1.0)  # half-open gates, in which every example has a say
    backend = "gloo" if "RANK" in os.environ else None
    quiet = arguments(
        folder, STEPS, per_device_train_batch_size=batch, ddp_backend=backend, ddp_find_unused_parameters=False
    )
    objective = [Logits(2.0, weight=0.1, divergence=True), Hidden("quarters", weight=0.9)]
    trainer = Watched(
        student,
        method=method,
        teacher=build_bert(seed=1),
        objective=objective,
        args=quiet,
        train_dataset=rows(),
    )
    trainer.train()
    found = {name: torch.stack(values) for name, values in trainer.kept.items()}
    for name in ("model", "method", "terms"):
        found |= {f"{name}.{key}": value.detach().clone() for key, value in getattr(trainer, name).state_dict().items()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    in_both(lambda: save_file(run(place, batch=4), place / f"{os.environ['RANK']}.safetensors"))
