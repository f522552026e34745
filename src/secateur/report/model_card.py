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
from secateur.report import markdown
from secateur.report.names import shown
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, target_text
from secateur.report.size_text import headline
from secateur.surgery.auto_classes import auto_class_of
from secateur.tasks.splits import hub_source

UNKNOWN = "unknown"
"""The kind of data that is not on the hub, as sentence-transformers writes it."""
INHERITED = ("license", "license_name", "license_link", "language")
"""Fields of the base model's card that apply to every model derived from it."""
TASKS = {"translation": "translation", "summarisation": "summarization", "reranking": RANKING}
"""Task of a recipe -> its name on the hub, where the model alone does not tell."""
LOADING = """\
```python
import secateur  # pip install secateur

model = secateur.load("{folder}")
```

```python
import secateur
from transformers import {auto}

model = {auto}.from_pretrained("{folder}")
```

Without secateur installed, by the code in the folder (read `modeling_secateur.py` first):

```python
from transformers import {auto}

model = {auto}.from_pretrained("{folder}", trust_remote_code=True)
```
"""
BY_SENTENCE_TRANSFORMERS = """\
```python
import secateur  # pip install secateur

model = secateur.load("{folder}")
```

Its vectors, or the scores of its pairs, by sentence-transformers, with the code in the folder (read
`modeling_secateur.py` first):

```python
from sentence_transformers import {loader}

model = {loader}("{folder}", trust_remote_code=True)
```
"""
GENERATOR = "AutoModelForSeq2SeqLM"
"""The head whose card shows how to generate text."""
GENERATION = """\
To generate text (version 5 of transformers has no pipeline for it):

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
inputs = tokenizer([{text!r}], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs, num_beams=5), skip_special_tokens=True))
```
"""


LIMITS = (
    "The model was distilled for this task and this kind of text only. It has the biases of the base model and of the "
    "data, and pruning can cost more accuracy on rare inputs than the score shows."
)


def card(report: Report, model: PreTrainedModel) -> str:
    """The text of the `README.md` of a finished run's model, with the header that the Hugging Face hub reads.

    Args:
        report: the report of the run; its recipe names the base model and the data.
        model: the compact model; its class decides how it is loaded.
    """
    recipe, auto = report.recipe, auto_class_of(model.config)
    method, source = recipe["method"]["name"], hub_source(recipe["data"]["source"])
    name, base = f"{Path(recipe['model']).name}-{method}", header_of(recipe["model"])
    base_model = recipe["model"] if on_hub(recipe["model"]) else base.get("base_model")
    kind = kind_of(model, TASKS.get(recipe["data"].get("task")))
    data = ModelCardData(
        model_name=name,
        base_model=base_model,
        base_model_relation=RELATION if base_model else None,
        datasets=[source[0]] if source else None,
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=[*OWN_TAGS, method, *kind.tags],
        eval_results=_results(report, kind.task or "other"),
        **{key: base[key] for key in INHERITED if key in base},
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(report, auto, kind, name, base)}"


def _results(report: Report, task: str) -> list[EvalResult]:
    """The scores, with the data that they are about: its name on the hub, or that of a file or folder."""
    data = report.recipe["data"]
    scored, split = data.get("evaluation"), report.splits["validation"]
    if scored is None:
        scored = data["source"]
    else:
        split = None
    path, config = hub_source(scored) or (UNKNOWN, None)
    of: dict[str, Any] = {"dataset_config": config, "dataset_split": split}
    return [
        EvalResult(task, path, shown(scored), metric, round(score, 4), **of) for metric, score in report.scores.items()
    ]


def _body(report: Report, auto: str, kind: Kind, name: str, base: dict[str, Any]) -> str:
    """The text below the header, in Markdown."""
    sections = [
        f"# {name}\n\n{_summary(report)}",
        f"## Numbers\n\n{_numbers(report)}",
        f"## How to load it\n\n{_loading(report, auto, kind)}",
        f"## Sources\n\n{_sources(report, base)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(report: Report) -> str:
    recipe = report.recipe
    return (
        f"`{shown(recipe['model'])}`, fine-tuned for `{shown(recipe['data']['source'])}` and pruned to "
        f"{report.density['prunable']:.1%} of the prunable parameters of its layers by structured pruning with "
        f"distillation (method `{recipe['method']['name']}`, target {target_text(report)}). It is an ordinary "
        f"checkpoint with smaller tensors.\n\n**{headline(report)}**"
    )


def _numbers(report: Report) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in report.versions.items())
    notes = [*footnotes(report), f"fingerprint of the data: {report.data}; versions: {versions}"]
    table = markdown.table(("", "teacher", "pruned"), score_table(report))
    return "\n".join([*table, "", *(f"- {note}" for note in notes)])


def _loading(report: Report, auto: str, kind: Kind) -> str:
    if kind.library == "sentence-transformers":
        loader = "CrossEncoder" if kind.task == RANKING else "SentenceTransformer"
        return BY_SENTENCE_TRANSFORMERS.format(folder=PLACEHOLDER, loader=loader).rstrip()
    loading = LOADING.format(folder=PLACEHOLDER, auto=auto)
    if auto == GENERATOR:
        prefix = report.recipe["data"]["options"].get("prefix", "")
        loading += "\n" + GENERATION.format(folder=PLACEHOLDER, text=f"{prefix}a text")
    return loading.rstrip()


def _sources(report: Report, base: dict[str, Any]) -> str:
    recipe, data = report.recipe, shown(report.recipe["data"]["source"])
    return "\n".join(
        [
            f"- base model: `{shown(recipe['model'])}`{_licence_text(base)}",
            f"- teacher: `{shown(recipe['teacher'] or 'the base model, fine-tuned')}`",
            f"- data: `{data}`, {report.rows['train']:,} training rows, whose terms apply too",
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
