"""What a user would take in place of a pruned embedding model, and how all of them are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

METRICS = ("spearman", "ndcg@10", "mrr@10")
"""Of pairs, and of retrieval."""
TOKENS = 256
"""Of a scored text at most, as all-MiniLM-L6-v2 has them."""
DIMS, BATCH = 256, 512
"""Of static embeddings, and the pieces that are encoded at once to make them."""
ZIPF = 1e-4
"""The smoothing of the weights of pieces by their frequency (Arora et al., ICLR 2017), which Zipf's law estimates."""


@dataclass(frozen=True)
class Evaluated:
    """What models are scored on: a task with its encoded rows."""

    task: Any
    tokenizer: Any

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All scored texts as tokens."""
        from secateur.measure.evaluation import encoded

        return encoded(self.task, "validation", self.tokenizer, TOKENS)

    def scores(self, model: Any) -> dict[str, float]:
        """The scores of a model in PyTorch."""
        from secateur.measure.evaluation import scores

        return scores(model, self.task, self.rows, self.tokenizer)

    def scores_of_runner(self, run: Any) -> dict[str, float]:
        """The scores of an exported file."""
        from secateur.measure.evaluation import runner_scores

        return runner_scores(run, self.task, self.rows, self.tokenizer)

    def calibration(self, count: int) -> list[dict[str, Any]]:
        """Texts of training as padded inputs, drawn by a seed."""
        from secateur.measure.evaluation import batches, encoded, shuffled

        drawn = shuffled(len(self.task.splits["train"]), seed=0)[:count]
        rows = encoded(self.task, "train", self.tokenizer, TOKENS, drawn)
        return batches(self.task, rows, self.tokenizer, limit=count)


def evaluation_of(model: str, place: Path, texts: Path) -> Evaluated:
    """The evaluation in a file of pairs or in a folder of retrieval, in the tokens of a model."""
    from secateur.surgery.opening import open_tokenizer
    from secateur.tasks.task import open_task

    task = open_task("embedding", str(texts), {}, metric=None, seed=0, rows=None, evaluation=str(place))
    return Evaluated(task.fitted(model, "model"), open_tokenizer(model))


def scores_by_metric(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The scores of one model over all evaluations, each in a list of its own."""
    return {metric: [one[metric] for one in found if metric in one] for metric in METRICS}


def train_first_layers(values: Mapping[str, Any], layers: int, place: Path, shared: Path) -> None:
    """Train the first layers of a model with the terms, the texts and the steps of a recipe, and save the result.

    Args:
        shared: where the teacher's outputs are kept, those of a run too.
    """
    import secateur as sec
    from secateur.run.context import Context
    from secateur.run.models import load_teacher
    from secateur.run.recipe import make
    from secateur.run.run_data import RunData
    from secateur.run.stage_trainer import distilling_trainer
    from secateur.run.stages.outputs import outputs_of
    from secateur.run.training_arguments import learning_rate_of_run

    if (place / "model").is_dir():
        return
    recipe = make({**values, "distillation.match": "nearest"})
    context = Context(recipe, place, RunData(recipe), shared=shared)
    student: Any = load_teacher(context)
    student.encoder.layer = student.encoder.layer[:layers]
    student.config.num_hidden_layers = layers
    assert recipe.training.steps is not None
    trainer = distilling_trainer(
        context,
        student,
        "recover",
        recipe.training.steps,
        teacher=outputs_of(context, load_teacher(context)),
        objective=context.distillation.terms(),
        learning_rate=learning_rate_of_run(context),
    )
    trainer.train()
    sec.save(student.eval(), place / "model", tokenizer=context.data.tokenizer)


@dataclass(frozen=True)
class StaticEmbeddings:
    """A vector for each piece; that of a text is their mean. In the manner of model2vec (Tulkens and van Dongen, 2024).

    Attributes:
        table: `(pieces, dims)`, weighted.
    """

    table: Any

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> StaticEmbeddings:
        """The vectors that a model has of each piece alone, reduced by PCA, with less weight for frequent pieces.

        The numbers of pieces are taken for their ranks, as in vocabularies that are sorted by frequency.
        """
        import torch

        first, last, rows = tokenizer.cls_token_id, tokenizer.sep_token_id, []
        with torch.inference_mode():
            for numbers in torch.arange(model.config.vocab_size).split(BATCH):
                edges = [torch.full_like(numbers, one) for one in (first, last)]
                rows.append(model(input_ids=torch.stack([edges[0], numbers, edges[1]], dim=1)).sentence_embedding)
        table = torch.cat(rows).double()
        table = table - table.mean(dim=0)
        axes = torch.linalg.eigh(table.T @ table).eigenvectors[:, -DIMS:]
        ranks = torch.arange(2, 2 + len(table)).double()
        frequency = (1 / ranks) / (1 / ranks).sum()
        return cls((table @ axes * (ZIPF / (ZIPF + frequency)).unsqueeze(1)).float())

    @property
    def nbytes(self) -> int:
        """The size of the table."""
        return int(self.table.nbytes)

    def scores(self, evaluations: Sequence[Evaluated]) -> dict[str, list[float]]:
        """The scores on all evaluations."""
        return scores_by_metric([one.scores_of_runner(self) for one in evaluations])

    inputs = ("input_ids", "attention_mask")

    def __call__(self, batch: Mapping[str, Any]) -> list[Any]:
        """The vectors of a batch of texts, as a runner returns them."""
        import torch

        real = batch["attention_mask"].clone()
        real[:, 0] = 0  # [CLS]
        real.scatter_(1, batch["attention_mask"].sum(dim=1, keepdim=True) - 1, 0)  # [SEP]
        means = (self.table[batch["input_ids"]] * real.unsqueeze(-1)).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return [torch.nn.functional.normalize(means, dim=-1).numpy()]
