"""The report of a run: the numbers, each with its protocol and denominator, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur.errors import UserError


@dataclass(frozen=True)
class Report:
    """What a run found.

    Attributes:
        metric: name of the main score; `teacher_scores` and `scores` hold every metric on the validation split.
        density: scope -> fraction kept; `prunable` is the one that was asked for, `model` counts everything.
        structure: what survived, a row per layer (`Plan.summary`).
        weight_bytes: of the teacher's weights in float32, and of the compact folder's safetensors.
        latency: one `bench.Measurement` a shape, the teacher's inside it under `against`.
        verified: largest absolute differences of the logits, masked to compact and compact to loaded.
        seconds: wall-clock by stage, over all attempts.
        data: fingerprint of the data.
        target: where a time was asked for, `latency.beside`: asked, predicted and measured.
    """

    recipe: Mapping[str, Any]
    metric: str
    teacher_scores: Mapping[str, float]
    scores: Mapping[str, float]
    rows: Mapping[str, int]
    density: Mapping[str, float]
    structure: list[dict[str, Any]]
    parameters: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    latency: list[dict[str, Any]]
    verified: Mapping[str, float]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    data: str
    target: Mapping[str, Any] | None = None

    @property
    def retention(self) -> float | None:
        """The pruned model's score over the teacher's; None where the teacher scores 0."""
        teacher = self.teacher_scores[self.metric]
        return self.scores[self.metric] / teacher if teacher else None

    @property
    def aim(self) -> str:
        """What was asked for: "density 0.05", "5 ms" or "4x"."""
        r = self.recipe
        if r["density"] is not None:
            return f"density {r['density']:g}"
        return f"{r['latency']:g} ms" if r["latency"] is not None else f"{r['speedup']:g}x"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `retention` included."""
        return {**asdict(self), "retention": self.retention}

    def table(self) -> list[tuple[str, str, str]]:
        """The last table: (what, teacher, pruned)."""
        parameters, size = self.parameters, self.weight_bytes
        table = [
            (self.metric, f"{self.teacher_scores[self.metric]:.4f}", f"{self.scores[self.metric]:.4f}"),
            ("retention", "100%", "-" if self.retention is None else f"{self.retention:.1%}"),
            ("density, prunable", "1", f"{self.density['prunable']:.4f}"),
            ("density, whole model", "1", f"{self.density['model']:.4f}"),
            ("parameters", f"{parameters['teacher']:,}", f"{parameters['model']:,}"),
            ("weights, MB", f"{size['teacher'] / 1e6:.1f}", f"{size['model'] / 1e6:.1f}"),
        ]
        for found in self.latency:
            shape = f"{found['protocol']['batch']} x {found['protocol']['tokens']}"
            dense = found["against"]["latency_ms"]
            table.append((f"latency {shape}, ms", f"{dense:.2f}", f"{found['latency_ms']:.2f}"))
            table.append((f"speed-up {shape}", "1", f"{found['speed_up']:.1f}x"))
        return table if self.target is None else table + aimed(self.target)

    def footnotes(self) -> list[str]:
        """What the numbers mean: denominators and protocol."""
        p = self.latency[0]["protocol"] if self.latency else {}
        others = [
            f"{name} {written(self.teacher_scores[name])} and {written(score)}"
            for name, score in self.scores.items()
            if name != self.metric
        ]
        notes = [
            f"{self.metric} on {self.rows['validation']:,} validation rows, seed {self.recipe['seed']}, float32",
            "density, prunable: kept weights and inner biases of the layers over all of them (GRAIN's denominator); "
            "whole model: all parameters, embeddings and head included",
            f"masked = compact to {self.verified['masked_compact']:.1e}, "
            f"compact = loaded to {self.verified['compact_loaded']:.1e} "
            f"(largest difference of a logit, {self.verified['examples']} inputs)",
            "wall-clock, s: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.seconds.items()),
        ]
        if others:
            notes.insert(1, f"other scores, teacher and pruned: {', '.join(others)}")
        if self.target is not None:
            t = self.target["protocol"]
            notes.append(
                "asked, predicted (from the run's latency table) and measured at the end: "
                f"{t['threads']} threads, {t['dtype']}, {t['runtime']}, {t['machine']}"
            )
        if p:
            notes.append(
                f"latency: median of {p['repeats']} forwards, {p['order']}, {p['threads']} threads, {p['dtype']}, "
                f"{p['runtime']}, {p['machine']}"
            )
        return notes

    def to_markdown(self) -> str:
        """Headline table, what survived, and the footnotes."""
        r = self.recipe
        lines = [f"# {r['method']} at {self.aim}", "", f"`{r['model']}` on `{r['data']}`", ""]
        lines += _markdown_table(("", "teacher", "pruned"), self.table())
        columns = ("layer", "heads", "qk", "vo", "ffn", "hidden")
        kept = [tuple(str(row.get(column, "")) for column in columns) for row in self.structure]
        lines += ["", "## What survived (kept / total)", "", *_markdown_table(columns, kept), ""]
        lines += [f"- {note}" for note in self.footnotes()]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Write `report.md` and then `report.json`, which marks the run as done."""
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8")
        partial = folder / "report.partial"
        partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / "report.json")

    @staticmethod
    def load(folder: Path | str) -> Report:
        """The report of a finished run.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = Path(folder) / "report.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data.pop("retention")
            return Report(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is not a report that can be read ({error}): give the folder of a finished run"
            ) from error


def aimed(target: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `latency.beside`: (what, the dense model's time, ours with its speed-up), asked, predicted, measured."""
    shape = f"{target['protocol']['batch']} x {target['protocol']['tokens']}"
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (f"{what} {shape}, ms", dense.get(what, ""), f"{target[f'{what}_ms']:.2f} ({target[f'{what}_speedup']:.1f}x)")
        for what in ("asked", "predicted", "measured")
    ]


def written(score: float) -> str:
    """A score to four decimals; a count as it is."""
    return str(score) if isinstance(score, int) else f"{score:.4f}"


def _markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
