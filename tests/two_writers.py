"""Both processes of a training that is scored by what the model writes: `two_writers.py FOLDER DATA MODEL`.

Each writes `FOLDER/RANK.safetensors`: the weights after two steps of four rows, and the scores.
"""

import os
import sys
from pathlib import Path

import torch
from quiet import arguments
from safetensors.torch import save_file
from transformers import AutoTokenizer
from two_ranks import in_both

from secateur.measure.evaluation import encoded
from secateur.tasks.translation import Translation
from secateur.training.objectives import Hidden, Labels, Logits
from secateur.training.trainer import PruningTrainer


def written(folder, data, model, batch):
    """Weights and scores by name, after two steps of `batch` rows in this process."""
    task = Translation.from_data(data, beams=2, max_new_tokens=6)
    words = AutoTokenizer.from_pretrained(model)
    student, teacher = (task.load_model(model).eval() for _ in range(2))
    with torch.no_grad():
        for number, weight in enumerate(teacher.parameters()):
            if weight.dim() == 2 and weight.requires_grad:
                weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    student.load_state_dict(teacher.state_dict())
    student.get_decoder().layers[0].fc1.weight.data.mul_(0.5)
    kept = {"remove_unused_columns": False, "label_names": ["labels"], "optim": "sgd", "learning_rate": 0.1}
    trainer = PruningTrainer(
        student,
        teacher=teacher,
        objective=[Logits(2.0), Hidden(stack="encoder"), Hidden(stack="decoder"), Labels(smoothing=0.1)],
        args=arguments(folder, 2, per_device_train_batch_size=batch, per_device_eval_batch_size=3, **kept),
        train_dataset=encoded(task, "train", words, 40),
        eval_dataset=encoded(task, "validation", words, 40),
        data_collator=task.collator(words),
        generate=task.generate,
        compute_metrics=lambda found: task.compute_metrics(task.read(found, words)),
    )
    trainer.train()
    scores = {
        name: torch.tensor(score) for name, score in trainer.evaluate().items() if name in ("eval_bleu", "eval_chrf")
    }
    return {name: weight.detach().clone() for name, weight in student.named_parameters()} | scores


if __name__ == "__main__":
    folder, data, model = sys.argv[1:]
    torch.set_num_threads(1)
    training, files = Path(folder) / "training", Path(folder)
    in_both(lambda: save_file(written(training, data, model, 2), files / f"{os.environ['RANK']}.safetensors"))
