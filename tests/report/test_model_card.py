"""Model cards: the hub can read the header, the base model's licence is named, and the code in them runs."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from small_world import config, recipe_values, tokenizer, write_data, write_model
from transformers import BertModel

from secateur.budget.space import Space
from secateur.deploy.publish import publish
from secateur.deploy.upload_set import Stated, upload_set
from secateur.methods import METHODS
from secateur.report.model_card import card, paper_of
from secateur.report.report_text import footnotes, score_table
from secateur.run import pipeline, recipe
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import SentenceHead

HEADER = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: fill-mask\n---\n# A model\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, report) of a run whose base model has a card."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "base model", ["bad", "good"])
    (folder / "base model" / "README.md").write_text(HEADER)
    values = recipe_values(model, write_data(folder / "data.csv")) | {"training.epochs": 1, "method": "magnitude"}
    return folder / "run", pipeline.run(recipe.make(values), folder / "run")


def test_a_finished_run_has_a_card_that_hubs_can_read(finished):
    folder, report = finished
    header = ModelCard.load(folder / "model" / "README.md").data.to_dict()
    assert header["license"] == "apache-2.0" and header["language"] == "en"
    assert header["pipeline_tag"] == "text-classification" and header["library_name"] == "transformers"
    assert "magnitude" in header["tags"]
    assert "base_model" not in header and "datasets" not in header  # local paths, which the hub does not know
    (index,) = header["model-index"]
    values = {entry["type"]: entry["value"] for entry in index["results"][0]["metrics"]}
    assert values == {name: pytest.approx(score, abs=1e-4) for name, score in report.scores.items()}


def test_the_card_has_every_number_of_the_report_with_its_protocol(finished):
    folder, report = finished
    text = (folder / "model" / "README.md").read_text()
    assert all(f"| {' | '.join(row)} |" in text for row in score_table(report))
    assert all(note in text for note in footnotes(report))
    assert "licence apache-2.0, which applies to this model" in text
    assert report.data in text


def test_the_code_that_loads_and_runs_the_model_runs(finished, capsys):
    folder, report = finished
    text = (folder / "model" / "README.md").read_text()
    first, second, _, running = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code in (first, second):
        space = {}
        exec(code.replace("path/to/this/folder", str(folder / "model")), space)
        assert space["model"].num_parameters() == report.parameters["model"]
    exec(running.replace("path/to/this/folder", str(folder / "model")), {})
    assert "'label': 'good'" in (said := capsys.readouterr().out) or "'label': 'bad'" in said


GIVEN = {"model_id": "org/small-bert", "base_model": "org/bert", "dataset": "org/reviews"}


def test_names_that_the_recipe_gives_take_the_place_of_folders(finished):
    folder, report = finished
    text = card(replace(report, recipe=report.recipe | {"card": GIVEN}), load(folder / "model"))
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["base_model"], header["datasets"]) == ("org/bert", ["org/reviews"])
    assert header["model-index"][0]["name"] == "small-bert" and scored_data(text)["type"] == "org/reviews"
    assert "\n# small-bert\n" in text and "`org/bert`, fine-tuned for `org/reviews`" in text
    assert 'secateur.load("org/small-bert")' in text and 'model="org/small-bert")' in text
    assert "path/to" not in text and "data.csv" not in text.replace("data.csv, ", "")
    assert "- base model: `org/bert`, licence apache-2.0" in text and "- data: `org/reviews`, " in text


def test_the_card_says_whether_the_run_worked_before_its_numbers(finished):
    folder, report = finished
    lost = replace(report, teacher_scores={"accuracy": 0.9}, scores={"accuracy": 0.6}, baseline=0.5)
    text = card(replace(lost, standard_error=0.01), load(folder / "model"))
    assert "\n\n**It fell short: the model keeps 66.7% of the teacher's accuracy" in text.partition("## Numbers")[0]
    assert text.index("It fell short") < text.index("accuracy 0.9000 -> 0.6000")


def test_a_card_is_published_under_another_name_than_the_recipe_gave(finished, tmp_path):
    folder, report = finished
    model = shutil.copytree(folder / "model", tmp_path / "model")
    (model / "README.md").write_text(card(replace(report, recipe=report.recipe | {"card": GIVEN}), load(model)))
    found = upload_set(model, "else/where", stated=Stated(), onnx=None, on_main=True)
    text = found.files["README.md"].decode()
    assert "org/small-bert" not in text and text.count('"else/where"') == 4


def test_hub_names_are_in_the_header_and_a_missing_licence_is_noted(finished):
    folder, report = finished
    values = json.loads(json.dumps(report.to_dict()))
    values.pop("retention")
    values["recipe"]["model"], values["recipe"]["data"]["source"] = "someone/some-bert", "glue/sst2"
    assert "split" not in scored_data(card(report, load(folder / "model"))), "the rows are split off from training"
    values["splits"]["validation"] = "test"
    text = card(type(report)(**values), load(folder / "model"))
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["base_model"] == "someone/some-bert" and header["datasets"] == ["nyu-mll/glue"]
    assert header["base_model_relation"] == "finetune"
    data = scored_data(text)
    assert (data["type"], data["config"], data["name"]) == ("nyu-mll/glue", "sst2", "glue/sst2")
    assert data["split"] == "test" and "accuracy on 4 test rows" in text
    assert "license" not in header and "whose card names no licence: ask its authors" in text


def test_the_card_of_an_embedding_model_loads_it_and_names_what_it_was_scored_on(finished, tmp_path):
    report = finished[1]
    data = report.recipe["data"] | {"task": "embedding", "evaluation": str(tmp_path / "pairs.csv")}
    model = attach_head(BertModel(config()), SentenceHead(["mean"], width=config().hidden_size))
    space = Space(model, "ffn")
    model = cut(model, Plan.of(space, (torch.arange(len(space)) % 2).float()))
    text = card(replace(report, recipe=report.recipe | {"data": data}), model)
    save(model, tmp_path / "model", tokenizer=tokenizer(), card=text)
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    scored = scored_data(text)
    assert scored == {"name": "pairs.csv", "type": "unknown"} and str(tmp_path) not in text
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        space = {}
        exec(code.replace("path/to/this/folder", str(tmp_path / "model")), space)
    assert space["model"].encode("a fine film").shape == (config().hidden_size,)


def test_the_card_of_a_task_whose_evaluation_is_a_split_names_its_data(finished):
    folder, report = finished
    data = report.recipe["data"] | {"task": "language", "source": "org/stories", "evaluation": "test"}
    splits = {"train": "train", "validation": "test"}
    text = card(replace(report, recipe=report.recipe | {"data": data}, splits=splits), load(folder / "model"))
    scored = scored_data(text)
    assert (scored["type"], scored["name"], scored["split"]) == ("org/stories", "org/stories", "test")
    assert "for inputs like those of its data only" in " ".join(text.split()), "it may read images"


def test_the_card_of_a_cross_encoder_names_its_task(finished):
    folder, report = finished
    data = report.recipe["data"] | {"task": "reranking", "source": "org/passages:dev"}
    text = card(replace(report, recipe=report.recipe | {"data": data}), load(folder / "model"))
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("sentence-transformers", "text-ranking")
    assert "CrossEncoder(" in text and header["datasets"] == ["org/passages"] and scored_data(text)["config"] == "dev"


def test_the_folder_of_a_run_is_ready_to_be_published(finished):
    """Its base model and its data are folders here, of which no path is in any file."""
    folder, report = finished
    assert report.recipe["model"].startswith("/")
    done = publish(folder, "org/small", base_model="org/bert", dataset="org/reviews", dry_run=True)
    header = done.header
    assert done.missing == () and (header["base_model"], header["license"]) == ("org/bert", "apache-2.0")
    assert header["base_model_relation"] == "finetune" and header["datasets"] == ["org/reviews"]


def scored_data(text):
    """The data of the first score in the header of a card."""
    return yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["dataset"]


@pytest.mark.parametrize("name", METHODS.all())
def test_every_method_cites_its_source(name):
    line = paper_of(METHODS.get(name))
    assert len(line) > 20 and not line.endswith(".")
