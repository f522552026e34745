"""Whole runs of the task `embedding`: from texts alone to a folder that sentence-transformers loads."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_world import recipe_values, tokenizer, write_model, write_world

from secateur.budget.space import Space
from secateur.cli.demo_recipes import DEMOS
from secateur.deploy.verify import verify_folder
from secateur.measure.random_inputs import padded_inputs
from secateur.report.report import Report
from secateur.run import finished_runs, pipeline, recipe
from secateur.run.begun_with import differing, fingerprints
from secateur.run.compared_models import score_models
from secateur.run.context import Context
from secateur.run.run_data import RunData
from secateur.run.vocabulary_data import data_of
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.sentence.head import SentenceHead, Settings
from secateur.system.errors import UserError

WORDS = ["fine", "bad", "good", "dull", "film", "book"]
TEXTS = [" ".join((one, other, "and") * (1 + n % 2)) for n, one in enumerate(WORDS) for other in WORDS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model of sentence-transformers and texts, which do not have all of its words."""
    folder = tmp_path_factory.mktemp("embedding")
    model = open_model(write_model(folder / "encoder"))
    settings = Settings({"query": "a ", "document": ""}, None, "cosine", 24)
    save(
        attach_head(model, SentenceHead(["mean"], width=16, settings=settings)), folder / "model", tokenizer=tokenizer()
    )
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder


def made(world, **changed):
    values = recipe_values(str(world / "model"), str(world / "texts.txt"))
    return recipe.make(values | {"data.task": "embedding", "target.density": 0.3} | changed)


@pytest.fixture(scope="module")
def run(world):
    """The folder of a run that prunes everything: the residual stream with a way back, and the vocabulary."""
    changed = {"target.units": ["hidden", "ffn"], "target.output_dim": "teacher", "vocabulary": "task"}
    pipeline.run(made(world, **changed), world / "run")
    return world / "run"


def test_a_run_keeps_to_the_reference_with_which_it_began(world, tmp_path):
    """Scores of the teacher are kept, and later ones would be agreement with other vectors."""
    reference = shutil.copytree(world / "model", tmp_path / "reference")
    own = made(world, **{"data.options": {"reference": str(reference)}})
    begun = fingerprints(Context(own, tmp_path / "run", data_of(own)))
    weights = load_file(reference / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, reference / "model.safetensors", {"format": "pt"})
    now = fingerprints(Context(own, tmp_path / "run", data_of(own)))
    assert differing(begun, now) == ["the weights of the reference"]
    assert differing({"data": begun["data"]}, now) == [], "an older version recorded less"
    plain = made(world)
    assert fingerprints(Context(plain, tmp_path / "run", data_of(plain)))["reference"] is None


def test_the_result_has_the_width_of_the_teacher_and_a_narrower_stream(run):
    model = load(run / "model")
    head = head_of(model)
    assert head.size == 16 and head.width < 16 and len(head.dense) == 1
    assert not torch.equal(head.dense[0].linear.weight, torch.eye(16)[:, : head.width]), "it was trained"
    assert head.settings.prompts == {"query": "a ", "document": ""}
    assert model.config.vocab_size == 11, "one of the words does not occur"
    assert verify_folder(run / "model", [padded_inputs(model)]).passed


def test_sentence_transformers_gives_the_same_vectors(run):
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(run / "model"), trust_remote_code=True, device="cpu")
    words, model = open_tokenizer(run / "model"), open_model(run / "model")
    batch = words([f"a {text}" for text in TEXTS], padding=True, return_tensors="pt")
    with torch.no_grad():
        mine = model(**batch).sentence_embedding
    found = torch.from_numpy(theirs.encode_query(TEXTS, batch_size=64))
    torch.testing.assert_close(found, mine, rtol=1e-4, atol=1e-5)


def test_the_report_compares_with_the_teacher(run):
    report = Report.load(run)
    assert report.metric == "neighbours" and set(report.scores) == {"neighbours", "cosine"}
    assert report.shared_output is False and report.bytes["teacher"]["head"] == 0 and report.unpruned["units"] > 0
    assert report.teacher_scores == {"neighbours": 1.0, "cosine": pytest.approx(1.0)}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evaluated = [row for row in log if "eval_neighbours" in row]
    assert evaluated and not any("eval_loss" in row for row in evaluated), "there are no labels, and so no loss"
    assert any("loss_embedding" in row and "loss_similarity" in row and "loss_logits" not in row for row in log)


def test_a_model_of_no_run_is_compared_with_the_teacher_of_the_run(world, run):
    (teacher, pruned) = score_models([str(world / "model"), str(run)], finished_runs.read([run]))
    assert teacher.score == 1.0
    assert pruned.score == pytest.approx(Report.load(run).scores["neighbours"], abs=1e-6)


def test_the_recipe_of_the_demo_makes_a_model_that_sentence_transformers_loads(world):
    """With its factors and its types of weights; only sizes are those of a small model."""
    library = pytest.importorskip("sentence_transformers")
    demo = {f"{part}.{key}": value for part, keys in DEMOS["embedding"].items() for key, value in keys.items()}
    own = {"model": str(world / "model"), "data.source": str(world / "texts.txt")}
    small = {
        "data.max_length": 24,
        "target.embedding_rank": 4,
        "measurement.shapes": [],
        "training.epochs": 2.0,
        "measurement.baselines": (),
    }
    pipeline.run(recipe.make(demo | own | small), world / "demo")
    model, words = open_model(world / "demo"), open_tokenizer(world / "demo")
    structure = model.config.secateur
    assert structure["factorised"] and structure["quantised"]
    theirs = library.SentenceTransformer(str(world / "demo" / "model"), trust_remote_code=True, device="cpu")
    with torch.no_grad():
        expected = model(**words(["good film"], return_tensors="pt")).sentence_embedding
    torch.testing.assert_close(theirs.encode(["good film"], convert_to_tensor=True), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def shorter(world):
    """The folder of a run that prunes the residual stream without a way back."""
    changed = {"target.units": ["hidden", "ffn"], "measurement.shapes": []}
    pipeline.run(made(world, **changed), world / "shorter")
    return world / "shorter"


def test_without_a_way_back_the_vectors_are_shorter(shorter):
    model = load(shorter / "model")
    assert head_of(model).size == head_of(model).width < 16
    assert set(Report.load(shorter).scores) == {"neighbours"}


FIRST = 4
"""Dims to which vectors are truncated."""


def truncated(folder):
    """The first dims of the vectors by sentence-transformers, which are those of the whole vectors."""
    library = pytest.importorskip("sentence_transformers")
    short, whole = (
        library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", truncate_dim=dims).encode(TEXTS)
        for dims in (FIRST, None)
    )
    assert short.shape == (len(TEXTS), FIRST) and np.allclose(short, whole[:, :FIRST], atol=1e-6)
    return whole


def mean_cosine(one, other):
    """Of the differences from the mean vectors, because those of random weights are much alike."""
    one, other = one - one.mean(0), other - other.mean(0)
    return float((one * other).sum(-1).mean() / np.sqrt((one**2).sum(-1) * (other**2).sum(-1)).mean())


@pytest.mark.parametrize("units", [["ffn"], ["hidden", "ffn"]])
def test_truncated_vectors_are_near_the_teachers_where_they_have_its_width(world, tmp_path, units):
    changed = {"target.units": units, "target.output_dim": "teacher" if "hidden" in units else None}
    pipeline.run(made(world, **changed, **{"measurement.shapes": [], "target.density": 0.9}), tmp_path / "run")
    own, taught = truncated(tmp_path / "run" / "model"), truncated(world / "model")
    assert mean_cosine(own[:, :FIRST], taught[:, :FIRST]) > 0.9


def test_the_first_dims_of_shorter_vectors_are_those_that_are_left(world, shorter, tmp_path):
    """Not the teacher's first ones, where these were pruned."""
    assert truncated(shorter / "model").shape == (len(TEXTS), head_of(load(shorter / "model")).width)
    teacher, pruned = open_model(world / "model"), [0, 2]
    space = Space(teacher, "hidden")
    masks = torch.ones(len(space))
    masks[pruned] = 0.0
    save(cut(teacher, Plan.of(space, masks)), tmp_path / "cut", tokenizer=tokenizer())
    left = np.delete(np.arange(16), pruned)
    own, taught = truncated(tmp_path / "cut"), truncated(world / "model")
    assert own.shape == (len(TEXTS), 14) and mean_cosine(own[:, :FIRST], taught[:, left[:FIRST]]) > 0.9
    assert mean_cosine(own[:, :FIRST], taught[:, :FIRST]) < 0.7


def test_pairs_are_learned_from(world, tmp_path):
    rows = [{"anchor": text, "positive": f"a {text}"} for text in TEXTS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    terms = {"similarity": {}, "contrastive": {}}
    changed = {"data.source": str(tmp_path / "pairs.jsonl"), "distillation.terms": terms, "measurement.shapes": []}
    pipeline.run(made(world, **changed), tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    values = [row["loss_contrastive"] for row in log if "loss_contrastive" in row]
    assert values and all(value > 0 for value in values)


SCORED = TEXTS[:6]
TRIALS = {
    "target.density": None,
    "target.keep_score": 0.5,
    "method.trial_rows": 6,
    "method.trial": 0.2,
    "training.select": 4,
    "training.evaluations": 1,
    "measurement.shapes": [],
}
"""Scores of training rows: of trials of a density, and of evaluations that choose the best weights."""


@pytest.mark.parametrize("scored", [False, True], ids=["by the teacher", "by pairs with a score"])
def test_training_rows_are_scored_by_the_teacher_whatever_the_result_is_scored_by(world, tmp_path, scored):
    rows = [{"text1": one, "text2": TEXTS[-n - 1], "score": n} for n, one in enumerate(SCORED)]
    (tmp_path / "scored.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluation = {"data.evaluation": str(tmp_path / "scored.jsonl")} if scored else {}
    pipeline.run(made(world, **TRIALS, **evaluation), tmp_path / "run")
    report = Report.load(tmp_path / "run")
    assert report.metric == ("spearman" if scored else "neighbours")
    assert report.goal["teacher"]["held_out"] == 1.0 == report.goal["teacher"]["validation"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("eval_neighbours" in row for row in log) and not any("eval_spearman" in row for row in log)


def test_evaluations_on_some_queries_search_the_whole_corpus(world, tmp_path):
    rows = {
        "corpus": [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)],
        "queries": [{"_id": f"q{number}", "text": f"a {TEXTS[number]}"} for number in range(6)],
        "qrels": [{"query-id": f"q{number}", "corpus-id": f"d{number}", "score": 1} for number in range(6)],
    }
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    data = RunData(made(world, **{"data.evaluation": str(tmp_path), "training.evaluation_rows": 2}))
    members = [row["member"] for row in data.eval_rows]
    assert members == ["q0", "q1", *(f"d{number}" for number in range(len(TEXTS)))]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distillation.terms": {"contrastive": {}}}, "compares rows of the same example"),
        ({"distillation.terms": {}}, "observes the gradient of the terms labels, logits, and the loss has only hidden"),
        ({"data.metric": "cosine", "target.units": ["hidden", "ffn"]}, "set target.output_dim: teacher"),
        ({"model": "encoder"}, "name a pooling by --pooling"),
        ({"data.label": "text"}, "task 'embedding' has no label: leave out --label"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(world, changed, message):
    values = changed | ({"model": str(world / changed["model"])} if "model" in changed else {})
    with pytest.raises(UserError, match=message):
        pipeline.run(made(world, **values), world / "refused")
    assert not (world / "refused").exists()


def test_a_way_back_is_refused_for_other_tasks(tmp_path):
    folder = write_world(tmp_path)
    values = recipe_values(str(folder / "encoder"), str(folder / "data.csv")) | {"target.output_dim": "teacher"}
    with pytest.raises(UserError, match="this task has none: leave it out"):
        pipeline.run(recipe.make(values), tmp_path / "run")
