"""The model card of a compact folder: the model, its numbers with their protocol, how to load it, and its sources."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedModel

from secateur.deploy.card_metadata import OWN_TAGS, RANKING, RELATION, Kind, kind_of, on_hub
from secateur.deploy.upload_set import PLACEHOLDER
from secateur.methods import METHODS
from secateur.report import card_code, markdown
from secateur.report.names import shown
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, target_text
from secateur.report.size_text import headline
from secateur.report.verdict import verdict
from secateur.surgery.auto_classes import auto_class_of
from secateur.tasks import TASKS
from secateur.tasks.splits import hub_source

UNKNOWN = "unknown"
"""The kind of data that is not on the hub, as sentence-transformers writes it."""
INHERITED = ("license", "license_name", "license_link", "language")
"""Fields of the base model's card that apply to every model derived from it."""
HUB_TASKS = {"translation": "translation", "summarisation": "summarization", "reranking": RANKING}
"""Task of a recipe -> its name on the hub, where the model alone does not tell."""
LIMITS = (
    "The model was distilled for this task and for inputs like those of its data only. It has the biases of the base "
    "model and of the data, and pruning can cost more accuracy on rare inputs than the score shows."
)


def card(report: Report, model: PreTrainedModel) -> str:
    """The text of the `README.md` of a finished run's model, with the header that the Hugging Face hub reads.

    Args:
        report: the report of the run; its recipe names the base model and the data.
        model: the compact model; its class decides how it is loaded.
    """
    recipe, auto = report.recipe, auto_class_of(model.config)
    method, source = recipe["method"]["name"], hub_source(recipe["data"]["source"])
    given, base = named(report), header_of(recipe["model"])
    name = Path(given["model_id"] or f"{Path(given['base_model'] or recipe['model']).name}-{method}").name
    base_model = given["base_model"] or (recipe["model"] if on_hub(recipe["model"]) else base.get("base_model"))
    datasets = [source[0]] if source else None
    kind = kind_of(model, HUB_TASKS.get(recipe["data"].get("task")))
    data = ModelCardData(
        model_name=name,
        base_model=base_model,
        base_model_relation=RELATION if base_model else None,
        datasets=[given["dataset"]] if given["dataset"] else datasets,
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=[*OWN_TAGS, method, *kind.tags],
        eval_results=_results(report, kind.task or "other"),
        **{key: base[key] for key in INHERITED if key in base},
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(report, auto, kind, name, base)}"


def named(report: Report) -> dict[str, str | None]:
    """The names on the hub that the recipe gives for the card, None for those that it does not give."""
    return {"model_id": None, "base_model": None, "dataset": None, **report.recipe.get("card", {})}


def _base_model(report: Report) -> str:
    return named(report)["base_model"] or shown(report.recipe["model"], report.paths)


def _data(report: Report) -> str:
    return named(report)["dataset"] or shown(report.recipe["data"]["source"], report.paths)


def _results(report: Report, task: str) -> list[EvalResult]:
    """The scores, with the data that they are about: its name on the hub, or that of a file or folder."""
    data = report.recipe["data"]
    other = data.get("evaluation") if TASKS.get(data.get("task", "classification")).evaluation_is_data else None
    scored = other or named(report)["dataset"] or data["source"]
    path, config = (None if scored in (report.paths or ()) else hub_source(scored)) or (UNKNOWN, None)
    name = shown(scored, report.paths)
    of: dict[str, Any] = {"dataset_config": config, "dataset_split": None if other else report.splits["validation"]}
    return [EvalResult(task, path, name, metric, round(score, 4), **of) for metric, score in report.scores.items()]


def _body(report: Report, auto: str, kind: Kind, name: str, base: dict[str, Any]) -> str:
    """The text below the header, in Markdown."""
    sections = [
        f"# {name}\n\n{_summary(report)}",
        f"## Numbers\n\n{_numbers(report)}",
        *_code(report, auto, kind),
        f"## Sources\n\n{_sources(report, base)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(report: Report) -> str:
    recipe = report.recipe
    return (
        f"`{_base_model(report)}`, fine-tuned for `{_data(report)}` and pruned to "
        f"{report.density['prunable']:.1%} of the prunable parameters of its layers by structured pruning with "
        f"distillation (method `{recipe['method']['name']}`, target {target_text(report)}). It is an ordinary "
        f"checkpoint with smaller tensors.\n\n**{verdict(report).text}**\n\n**{headline(report)}**"
    )


def _numbers(report: Report) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in report.versions_in_words.items())
    notes = [*footnotes(report), f"fingerprint of the data: {report.data}; versions: {versions}"]
    table = markdown.table(("", "teacher", "pruned"), score_table(report))
    return "\n".join([*table, "", *(f"- {note}" for note in notes)])


def _code(report: Report, auto: str, kind: Kind) -> list[str]:
    """The sections that load the model and run it, by the name that it will have, or by that of a folder."""
    folder, prefix = named(report)["model_id"] or PLACEHOLDER, report.recipe["data"]["options"].get("prefix", "")
    running = card_code.running(folder, auto, kind, prefix, pairs=bool(report.asked.get("pairs")))
    run = [f"## How to run it\n\n{running}"] if running else []
    return [f"## How to load it\n\n{card_code.loading(folder, auto, kind)}", *run]


def _sources(report: Report, base: dict[str, Any]) -> str:
    recipe = report.recipe
    return "\n".join(
        [
            f"- base model: `{_base_model(report)}`{_licence_text(base)}",
            f"- teacher: `{shown(recipe['teacher'] or 'the base model, fine-tuned', report.paths)}`",
            f"- data: `{_data(report)}`, {report.rows['train']:,} training rows, whose terms apply too",
            f"- method: {paper_of(METHODS.get(recipe['method']['name']))}",
            "- `plan.json` lists the kept units; made with secateur",
        ]
    )


def _licence_text(header: dict[str, Any]) -> str:
    """The licence that the base model's card names, or the advice to ask its authors."""
    if licence := header.get("license"):
        return f", licence {licence}, which applies to this model"
    return ", whose card names no licence: ask its authors"


def paper_of(method: type[Any]) -> str:
    """The paper of a method: the first line of its module, which cites the paper."""
    module = sys.modules.get(method.__module__) or import_module(method.__module__)
    return (module.__doc__ or method.__doc__ or method.__name__).strip().partition("\n")[0].rstrip(".")


def header_of(name: str) -> dict[str, Any]:
    """The header of a model's card; empty if it has no card that can be read."""
    try:
        return ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError, HfHubHTTPError):
        return {}
