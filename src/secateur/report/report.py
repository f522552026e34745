"""The report of a run: the numbers, each with its protocol and denominator, as JSON, as Markdown and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from secateur.report import html, run_page
from secateur.report.html import Facts, Notes, Preformatted, Section, Table
from secateur.report.recipe_keys import upgrade
from secateur.report.run_log import Record, read
from secateur.report.run_page import COLUMNS, shape
from secateur.system.errors import UserError


@dataclass(frozen=True)
class Report:
    """What a run found.

    Attributes:
        recipe: the resolved recipe, in groups.
        metric: name of the main score; `teacher_scores` and `scores` hold every metric on the validation split.
        density: scope -> fraction kept; `prunable` is the one that was asked for, `model` counts everything, `filled`
            is there with tiles (`Plan.achieved`).
        structure: what survived, a row per layer (`Reading.summary`).
        weight_bytes: of the teacher's weights in float32, and of the compact folder's safetensors.
        latency: one `bench.Measurement` a shape, the teacher's inside it under `against`.
        verified: largest absolute differences of the logits, masked to compact and compact to loaded.
        seconds: wall-clock by stage, over all attempts.
        data: fingerprint of the data.
        target: where a time was asked for, `latency_sweep.target_reached`: asked, predicted and measured.
        memory: stage, or `run` for all of it -> kind of memory (`resident.peaks`) -> bytes at the highest over all
            attempts, and under `counted` what that is; None for a run that did not watch it.
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
    memory: Mapping[str, Any] | None = None

    @property
    def retention(self) -> float | None:
        """The pruned model's score over the teacher's; None where the teacher scores 0."""
        teacher = self.teacher_scores[self.metric]
        return self.scores[self.metric] / teacher if teacher else None

    @property
    def aim(self) -> str:
        """What was asked for: "density 0.05", "keep 12", "5 ms" or "4x"."""
        target = self.recipe["target"]
        if target["density"] is not None:
            return f"density {target['density']:g}"
        if target.get("keep") is not None:
            return f"keep {target['keep']}"
        return f"{target['latency']:g} ms" if target["latency"] is not None else f"{target['speedup']:g}x"

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
            *self._inside(),
            ("parameters", f"{parameters['teacher']:,}", f"{parameters['model']:,}"),
            ("weights, MB", f"{size['teacher'] / 1e6:.1f}", f"{size['model'] / 1e6:.1f}"),
        ]
        for found in self.latency:
            dense = found["against"]["latency_ms"]
            table.append((f"latency {shape(found)}, ms", f"{dense:.2f}", f"{found['latency_ms']:.2f}"))
            table.append((f"speed-up {shape(found)}", "1", f"{found['speed_up']:.1f}x"))
        return table if self.target is None else table + aimed(self.target)

    def _inside(self) -> list[tuple[str, str, str]]:
        """Rows of a model in tiles: what is stored of what is prunable, zeros and all, and how dense that is."""
        if (filled := self.density.get("filled")) is None:
            return []
        inside = f"{self.density['prunable'] / filled:.4f}" if filled else "-"
        return [("density, with the zeros inside", "1", f"{filled:.4f}"), ("density inside what is left", "1", inside)]

    def footnotes(self) -> list[str]:
        """What the numbers mean: denominators and protocol."""
        return self._about_scores() + self._about_times()

    def _about_scores(self) -> list[str]:
        others = [
            f"{name} {written(self.teacher_scores[name])} and {written(score)}"
            for name, score in self.scores.items()
            if name != self.metric
        ]
        return [
            f"{self.metric} on {self.rows['validation']:,} validation rows, seed {self.recipe['seed']}, float32",
            *([f"other scores, teacher and pruned: {', '.join(others)}"] if others else []),
            "density, prunable: kept weights and inner biases of the layers over all of them (GRAIN's denominator); "
            "whole model: all parameters, embeddings and head included",
            *(
                ["with the zeros inside: the weights of tiles that are gone too, where more of the weight is left"]
                if "filled" in self.density
                else []
            ),
            f"masked = compact to {self.verified['masked_compact']:.1e}, "
            f"compact = loaded to {self.verified['compact_loaded']:.1e} "
            f"(largest difference of a logit, {self.verified['examples']} inputs)",
            "wall-clock, s: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.seconds.items()),
            *([] if self.memory is None else _peaks(self.memory)),
        ]

    def _about_times(self) -> list[str]:
        notes = []
        if self.target is not None:
            notes.append(
                "asked, predicted (from the run's latency table) and measured at the end: "
                + _conditions(self.target["protocol"])
            )
        if self.latency:
            p = self.latency[0]["protocol"]
            notes.append(f"latency: median of {p['repeats']} forwards, {p['order']}, {_conditions(p)}")
        return notes

    @property
    def title(self) -> str:
        """Of the Markdown and of the page."""
        return f"{self.recipe['method']['name']} at {self.aim}"

    def survived(self) -> list[tuple[str, ...]]:
        """What survived, kept / total: a row per layer, and the stream's; columns as in `COLUMNS`."""
        return [tuple(str(row.get(column, "")) for column in COLUMNS) for row in self.structure]

    def to_markdown(self) -> str:
        """Headline table, what survived, and the footnotes."""
        r = self.recipe
        lines = [f"# {self.title}", "", f"`{r['model']}` on `{r['data']['source']}`", ""]
        lines += markdown_table(("", "teacher", "pruned"), self.table())
        lines += ["", "## What survived (kept / total)", "", *markdown_table(COLUMNS, self.survived()), ""]
        lines += [f"- {note}" for note in self.footnotes()]
        return "\n".join(lines) + "\n"

    def to_html(self, record: Record) -> str:
        """A page that stands alone: what Markdown tells, and in pictures what the run's folder has on record."""
        asked, held_out = self.recipe["target"]["density"], self.recipe.get("training", {}).get("select", 0)
        told = [
            run_page.survived(self.structure, record.survivors),
            run_page.course(record, self.metric, self.teacher_scores[self.metric], asked, held_out),
            run_page.pruned_when(record),
            run_page.times(self.latency, self.target, self._about_times()),
        ]
        sections = [self._result(), *(section for section in told if section.parts), self._origin()]
        return html.render(self.title, sections, f"{self.recipe['model']} on {self.recipe['data']['source']}")

    def write(self, folder: Path) -> None:
        """Write `report.md` and `report.html` of the run in a folder.

        Raises:
            UserError: the folder cannot be written, or its model is damaged.
        """
        written_out = {"report.md": self.to_markdown(), "report.html": self.to_html(read(folder))}
        for name, text in written_out.items():
            try:
                (folder / name).write_text(text, encoding="utf-8", errors="replace")
            except OSError as error:
                raise UserError(
                    f"cannot write {folder / name} ({error.strerror}): free space, or make the folder writable"
                ) from error

    def save(self, folder: Path) -> None:
        """Write `report.md`, `report.html` and then `report.json`, which marks the run as done."""
        self.write(folder)
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
            data["recipe"] = upgrade(data["recipe"])
            return Report(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is not a report that can be read ({error}): give the folder of a finished run"
            ) from error

    # The sections of the page

    def _result(self) -> Section:
        table = Table("Teacher and pruned model", ("", "teacher", "pruned"), self.table())
        return Section("Result", [Facts(self._facts()), table, Notes(self._about_scores())])

    def _facts(self) -> list[tuple[str, str, str]]:
        """Score, density, size and speed, in a few words each."""
        size, teacher = self.weight_bytes, f"teacher {self.teacher_scores[self.metric]:.4f}"
        kept = "" if self.retention is None else f"{self.retention:.1%} of the "
        facts = [
            (self.metric, f"{self.scores[self.metric]:.4f}", kept + teacher),
            ("density", f"{self.density['prunable']:.1%}", f"prunable; whole model {self.density['model']:.1%}"),
            ("weights", f"{size['model'] / 1e6:.1f} MB", f"teacher {size['teacher'] / 1e6:.1f} MB"),
        ]
        if self.target is not None:
            t = self.target
            facts.append(("speed", f"{t['measured_speedup']:.1f}x", f"{t['measured_ms']:.1f} ms at {shape(t)}"))
        elif self.latency:
            m = max(self.latency, key=lambda m: m["protocol"]["batch"] * m["protocol"]["tokens"])
            facts.append(("speed", f"{m['speed_up']:.1f}x", f"{m['latency_ms']:.1f} ms at {shape(m)}"))
        return facts

    def _origin(self) -> Section:
        rows = [(f"{split} rows", f"{count:,}") for split, count in self.rows.items()]
        facts = [("data fingerprint", self.data), *rows, *self.versions.items()]
        recipe = yaml.safe_dump(dict(self.recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)
        return Section("How it was made", [Table("Data and versions", ("what", "value"), facts), Preformatted(recipe)])


def aimed(target: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `latency_sweep.target_reached`, asked, predicted and measured: (what, dense time, ours with speed-up)."""
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (
            f"{what} {shape(target)}, ms",
            dense.get(what, ""),
            f"{target[f'{what}_ms']:.2f} ({target[f'{what}_speedup']:.1f}x)",
        )
        for what in ("asked", "predicted", "measured")
    ]


def _peaks(memory: Mapping[str, Any]) -> list[str]:
    """A line for each kind of memory: the peaks of the stages, and last of the whole run."""
    stages = sorted((name for name in memory if name != "counted"), key="run".__eq__)
    kinds = dict.fromkeys(kind for stage in stages for kind in memory[stage])
    told = {
        kind: ", ".join(f"{stage} {memory[stage][kind] / 1e6:,.0f}" for stage in stages if kind in memory[stage])
        for kind in kinds
    }
    return [f"peak memory, {kind}, MB: {peaks} ({memory['counted']})" for kind, peaks in told.items()]


def written(score: float) -> str:
    """A score to four decimals; a count as it is."""
    return str(score) if isinstance(score, int) else f"{score:.4f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _conditions(protocol: Mapping[str, Any]) -> str:
    threads = protocol["threads"]
    counted = f"{threads} thread" if threads == 1 else f"{threads} threads"
    return f"{counted}, {protocol['dtype']}, {protocol['runtime']}, {protocol['machine']}"
