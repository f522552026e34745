"""A bar for each stage that trains, in notebooks and in scripts; the command line has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from secateur.run.expected_stage import StageWatch
from secateur.system import processes


class ProgressBars(StageWatch):
    """Shows a bar of the steps of each stage, with the last loss and density."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if processes.is_main():
            self.bar = tqdm(desc=Path(args.output_dir).name, total=state.max_steps, initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        shown = {name: f"{value:.3f}" for name, value in (logs or {}).items() if name in ("loss", "density")}
        if self.bar is not None and shown:
            self.bar.set_postfix(shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
