"""The best evaluation of a training: its weights are kept in a file and restored at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.system.files import atomic_path

BEST = "best.safetensors"
"""The file of a training's folder with the weights, the score and the step of its best evaluation."""


@dataclass(frozen=True)
class BestEvaluation:
    """The weights of the evaluation with the highest score.

    Attributes:
        metric: the name of the score, without the prefix `eval_` of the logs.
        parts: the modules whose weights are kept and restored, by name.
    """

    path: Path
    metric: str
    parts: Mapping[str, nn.Module]

    def offer(self, metrics: Mapping[str, float], step: int) -> None:
        """Save the present weights unless an earlier evaluation scored higher."""
        score = metrics[f"eval_{self.metric}"]
        if score >= self._score_before(step):
            self._keep(score, step)

    def restore(self) -> None:
        """Restore the weights of the best evaluation; if there is none, the weights are unchanged."""
        if not self.path.is_file():
            return
        state = load_file(self.path)
        for part, module in self.parts.items():
            prefix = f"{part}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            module.load_state_dict(own)

    def _score_before(self, step: int) -> float:
        """The best score of the earlier steps; one of a later step was left by a crash and does not count."""
        if not self.path.is_file():
            return -math.inf
        with safe_open(self.path, "pt") as file:
            note = file.metadata()
        return float(note["score"]) if int(note["step"]) < step else -math.inf

    def _keep(self, score: float, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as path:
            save_file(self._state(), path, {"score": repr(score), "step": str(step)})

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": value.detach().clone().contiguous()
            for part, module in self.parts.items()
            for name, value in module.state_dict().items()
        }
