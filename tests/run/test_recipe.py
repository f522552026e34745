"""Recipes: small, in groups, strict; what is wrong is named with its key."""

import logging

import pytest
import yaml
from pydantic import ValidationError

from secateur.methods import METHODS
from secateur.report.recipe_keys import FLAT, dotted, grouped
from secateur.run import recipe_yaml
from secateur.run.recipe import KEYS, Recipe, make, read, upgrade
from secateur.system.errors import UserError

LEAST = {"model": "m", "data": "d"}
# Every key with a value that is not its default.
OTHER = {
    "model": "folder/model",
    "teacher": "t",
    "seed": 7,
    "data.source": "glue/sst2",
    "data.task": "tokens",
    "data.text": ("question", "sentence"),
    "data.label": "target",
    "data.labels": ("no", "yes"),
    "data.evaluation": "pairs.csv",
    "data.pooling": "cls",
    "data.metric": "f1",
    "data.rows": 100,
    "data.tuning_rows": 30,
    "data.options": {"one": 1},
    "data.max_length": 64,
    "method.name": "magnitude",
    "method.options": {"beta": 0.9, "faithful": True, "names": ["a", None]},
    "target.units": ("layer", "head", "hidden"),
    "target.layers": 2,
    "target.layer_rule": "spread",
    "target.density": None,
    "target.latency": 5.0,
    "target.shape": (2, 16),
    "target.timed": "generation",
    "target.beams": 4,
    "target.latency_table": "table.json",
    "target.round_to": 8,
    "target.embedding_rank": 16,
    "target.embedding_svd": "plain",
    "target.output_dim": "teacher",
    "vocabulary.pieces": "task",
    "vocabulary.texts": ("more.txt",),
    "vocabulary.min_count": 2,
    "distillation.start": "model",
    "distillation.check_teacher": False,
    "distillation.temperature": 1.0,
    "distillation.divergence": True,
    "distillation.logits_weight": 0.5,
    "distillation.hidden": (1, 3),
    "distillation.match": "windows",
    "distillation.hidden_projection": False,
    "distillation.hidden_weight": 0.5,
    "distillation.hidden_of": "decoder",
    "distillation.labels_weight": 0.25,
    "distillation.label_smoothing": 0.1,
    "training.steps": None,
    "training.epochs": 2.0,
    "method.begin": 0.0,
    "method.layer_round": 0.4,
    "method.trial": 0.2,
    "method.trial_rows": 500,
    "method.ramp_rows": 100,
    "method.end": 0.5,
    "method.ramp": 0.25,
    "method.train": "scores",
    "training.batch_size": 8,
    "training.accumulate": 2,
    "training.learning_rate": 1e-5,
    "training.decay": "stage",
    "training.recover_learning_rate": 1e-6,
    "training.warmup": 0.0,
    "training.weight_decay": 0.0,
    "training.freeze_embeddings": "all",
    "training.dropout": None,
    "training.bf16": True,
    "training.cuda_graphs": False,
    "method.shrink": False,
    "method.refit": True,
    "distillation.terms": {"mine": {"weight": 0.5}},
    "distillation.cache": False,
    "distillation.cache_gb": 1.0,
    "training.evaluations": 2,
    "training.evaluation_rows": 50,
    "training.select": 10,
    "training.checkpoints": 0,
    "training.report_to": ("tensorboard",),
    "training.teacher_epochs": 1.0,
    "training.teacher_learning_rate": 1e-4,
    "training.teacher_steps": 100,
    "storage.dtype": "bf16",
    "storage.embeddings": "int8",
    "measurement.shapes": ((2, 16),),
    "measurement.repeats": 5,
    "measurement.retention": 0.9,
    "measurement.baselines": ("int8", "tfidf"),
    "card.model_id": "org/small-bert",
    "card.base_model": "org/bert",
    "card.dataset": "org/reviews",
}


def values_of(recipe):
    return dotted(recipe.model_dump())


def refusal(values, match):
    with pytest.raises(UserError, match=match) as refused:
        make(values, "r.yaml")
    text = str(refused.value)
    assert text.startswith("r.yaml") and "\n" not in text and ": :" not in text
    return text


def test_model_and_data_are_enough():
    recipe = make(LEAST)
    assert (recipe.method.name, recipe.target.density, recipe.target.units, recipe.seed) == (
        "grain",
        0.05,
        ("ffn", "qk", "vo"),
        0,
    )
    assert recipe.teacher is recipe.target.embedding_rank is recipe.training.bf16 is None


@pytest.mark.parametrize("key", LEAST)
def test_model_and_data_are_needed(key):
    refusal({name: value for name, value in LEAST.items() if name != key}, f"r.yaml: {key}: a value is needed$")


def test_a_recipe_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        make(LEAST).seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        make(LEAST).training.epochs = 1


EXCLUDED = LEAST | {
    "target.density": 0.2,
    "target.toward": 0.1,
    "target.uniform": True,
    "training.augment": 2,
    "training.average": 0.5,
    "training.minutes": 2.5,
}  # by others of those keys


@pytest.mark.parametrize("values", [LEAST, OTHER, EXCLUDED], ids=["defaults", "every key", "excluded keys"])
def test_yaml_has_every_key_and_reads_back_equal(values, tmp_path):
    recipe = make(values)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert list(yaml.safe_load(recipe.to_yaml())) == ["version", *Recipe.model_fields]
    assert read(tmp_path / "recipe.yaml", {}) == recipe


@pytest.mark.parametrize("name", METHODS.all())
def test_a_methods_defaults_apply_to_keys_that_the_recipe_does_not_set(name):
    defaults = METHODS.get(name).defaults
    made = values_of(make(LEAST | {"method": name}))
    assert {key: made[key] for key in defaults} == dict(defaults)
    assert make(LEAST | {"method": name, "distillation.temperature": 3.0}).distillation.temperature == 3.0


def test_a_tasks_defaults_override_a_methods():
    made = make(LEAST | {"method": "cofi", "data.task": "translation"})
    assert (made.distillation.temperature, made.distillation.hidden) == (1.0, "quarters"), "cofi's own temperature is 2"
    assert (
        make(
            LEAST | {"method": "cofi", "data.task": "translation", "distillation.temperature": 3.0}
        ).distillation.temperature
        == 3.0
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"training.select": 5, "training.evaluations": 0},
            "training.select needs evaluations to choose from: set training.evaluations",
        ),
        ({"training.decay": "stage"}, "set training.recover_learning_rate, or training.decay: run"),
        (
            {"training.augment": 1, "distillation.labels_weight": 0.5},
            "makes texts without a label: set distillation.labels_weight: 0",
        ),
        ({"training.average": 0.5, "training.select": 5}, "training.select and training.average exclude each other"),
        ({"method.end": 1.0, "training.average": 0.5}, "end: 1 leaves no recovery"),
        (
            {"method.end": 1.0, "training.decay": "stage", "training.recover_learning_rate": 1e-4},
            "end: 1 leaves no recovery",
        ),
    ],
)
def test_keys_that_need_each_other_are_checked(values, message):
    refusal(LEAST | values, message)


def test_the_other_values_are_every_key_and_no_default():
    other, least = values_of(make(OTHER)), values_of(make(LEAST))
    excluded = {"target.speedup", "target.toward", "target.keep", "target.keep_score", "target.size"}  # by the latency
    excluded |= {"target.uniform"}
    excluded |= {"training.augment", "training.average", "training.minutes"}  # by labels_weight, select and steps
    others = [key for key in KEYS if key not in excluded]
    assert sorted(OTHER) == sorted(others)
    assert all(other[key] != least[key] for key in others)


@pytest.mark.parametrize(("given", "ms"), [("5ms", 5.0), ("0.005 s", 5.0), (5, 5.0), ("2.5", 2.5)])
def test_a_latency_may_have_a_unit(given, ms):
    recipe = make(LEAST | {"target.latency": given})
    assert (recipe.target.latency, recipe.target.density, recipe.target.speedup) == (ms, None, None)


@pytest.mark.parametrize(("given", "count"), [("5MB", 5_000_000), ("800 kB", 800_000), (17, 17), ("17", 17)])
def test_a_size_may_have_a_unit(given, count):
    recipe = make(LEAST | {"target.size": given})
    assert (recipe.target.size, recipe.target.density) == (count, None)


def test_a_target_of_the_command_overrides_the_target_of_the_file(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ntarget: {density: 0.2}\n")
    recipe = read(tmp_path / "r.yaml", {"target.speedup": 4})
    assert (recipe.target.speedup, recipe.target.density) == (4.0, None)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert read(tmp_path / "r.yaml", {}) == recipe
    again = read(tmp_path / "r.yaml", {"target.density": 0.2})
    assert (again.target.speedup, again.target.density) == (None, 0.2)
    counted = read(tmp_path / "r.yaml", {"target.keep": 12})
    assert (counted.target.speedup, counted.target.density, counted.target.keep, counted.target.densities) == (
        None,
        None,
        12,
        (),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target.density": 0.2, "target.speedup": 4}, "exclude each other: ask for one of them"),
        ({"target.latency": 5, "target.speedup": 4}, "exclude each other: ask for one of them"),
        ({"target.keep": 12, "target.density": 0.2}, "exclude each other: ask for one of them"),
        ({"target.keep_score": 0.97, "target.density": [0.4, 0.2]}, "density and target.keep_score exclude each other"),
        ({"target.keep_score": 0.97, "target.toward": 0.1}, "must be a density below target.density"),
        ({"target.keep_score": 1.1}, "target.keep_score: .* at most 1"),
        ({"target.keep": 12, "target.speedup": 4}, "exclude each other: ask for one of them"),
        ({"target.keep": 12, "target.shape": [8, 128]}, "target.shape say how a latency or a speedup is measured"),
        ({"target.density": None}, "ask for one of target.density, target.size, target.latency"),
        ({"target.shape": [8, 128]}, "target.shape say how a latency"),
        ({"target.latency_table": "t.json", "target.beams": 4}, "target.latency_table and target.beams say how a"),
        ({"target.density": None, "target.speedup": 2, "target.timed": "decoding"}, "target.timed"),
        ({"target.speedup": 2, "measurement.shapes": []}, "is measured at a shape: set target.shape, such as 8x128"),
        ({"target.latency": 2, "measurement.shapes": []}, "is measured at a shape"),
        ({"target.speedup": 1.0}, "target.speedup: .* above 1"),
        (
            {"target.embedding_svd": "plain"},
            "target.embedding_svd says how word embeddings are factorised, and they are",
        ),
        ({"target.latency": "soon"}, "write it like 5ms"),
        ({"target.latency": 0}, "target.latency: .* above 0"),
        ({"target.round_to": 0}, "target.round_to: .* above 0"),
    ],
)
def test_impossible_times_and_speed_ups_are_refused(values, message):
    refusal(LEAST | values, message)


def test_a_time_is_measured_at_a_shape_of_its_own_or_of_its_table():
    none = {"target.speedup": 2, "measurement.shapes": []}
    for shape in ({"target.shape": "8x128"}, {"target.latency_table": "t.json"}):
        assert make(LEAST | none | shape).measurement.shapes == ()
    assert make(LEAST | {"measurement.shapes": []}).target.density == 0.05


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("densty", "did you mean 'target.density'"),
        ("Units", "did you mean 'target.units'"),
        ("training.epoch", "did you mean 'training.epochs'"),
        ("trainin", "did you mean 'training'"),
        ("method.nme", "did you mean 'method.name'"),
        ("training.cache", "did you mean 'distillation.cache'"),
        ("zzz", "known are model, teacher, seed, data"),
        (3, "kn"),
    ],
)
def test_an_unknown_key_is_refused_with_the_most_similar_one(key, hint):
    assert repr(key) in refusal(LEAST | {key: 1}, hint)


WRONG = [
    ("model", None),
    ("data.text", "sentence"),
    ("data.rows", 0),
    ("data.max_length", "long"),
    ("method.options", [1]),
    ("target.units", "ffn"),
    ("target.units", []),
    ("target.embedding_rank", 0),
    ("distillation.start", "here"),
    ("distillation.temperature", 0),
    ("distillation.hidden", 3),
    ("distillation.hidden_weight", -1),
    ("training.epochs", -1),
    ("training.epochs", float("inf")),
    ("method.begin", -0.1),
    ("method.begin", 1.1),
    ("method.end", 0.0),
    ("method.end", 1.1),
    ("method.train", "some"),
    ("target.keep", 0),
    ("target.keep", 1.5),
    ("training.batch_size", 0),
    ("training.batch_size", 1.5),
    ("training.batch_size", "many"),
    ("training.learning_rate", -1e-4),
    ("training.learning_rate", float("nan")),
    ("training.warmup", 1.0),
    ("training.dropout", 1.0),
    ("training.bf16", "maybe"),
    ("measurement.shapes", [[1, 2, 3]]),
    ("measurement.shapes", [[0, 8]]),
    ("seed", -1),
    ("seed", 2**32),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_an_invalid_value_is_named_with_its_key(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w-]*: .*, not ")


@pytest.mark.parametrize(("key", "value"), [("epochs", 0), ("epochs", 0.0), ("steps", 0), ("minutes", 0)])
def test_a_run_without_training_is_told_which_command_does_it(key, value):
    text = refusal(LEAST | {f"training.{key}": value}, rf"^r\.yaml: training\.{key}: a length of 0 trains nothing")
    assert "`secateur cut MODEL --data DATA --density 0.6`" in text


NUMBERS = {
    "target.density",
    "target.speedup",
    "target.keep",
    "target.keep_score",
    *(key for key, value in OTHER.items() if type(value) in (int, float)),
}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_a_boolean_is_not_a_number(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}: expected a number, not {value}$")


@pytest.mark.parametrize(
    ("key", "value"), [("distillation.hidden", [True, 2]), ("measurement.shapes", [[1, 32], [True, 8]])]
)
def test_a_boolean_in_a_list_is_not_a_number(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w]*: .*, not ")


@pytest.mark.parametrize(
    "key", ["model", "data.text", "target.units", "distillation.hidden", "data.metric", "distillation.start"]
)
def test_a_boolean_is_not_a_name(key):
    for value in (True, [True]):
        refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w]*: .*, not ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_id", "small"),
        ("model_id", "/home/me/small"),
        ("base_model", "models/bert/"),
        ("dataset", "./reviews.csv"),
    ],
)
def test_the_names_of_a_card_are_names_on_the_hub(key, value):
    refusal(LEAST | {f"card.{key}": value}, rf"card\.{key}: expected a name on the hub, .*owner/name, not '{value}'")


def test_integers_and_whole_floats_are_interchangeable():
    recipe = make(
        LEAST
        | {
            "training.epochs": 3,
            "training.batch_size": 8.0,
            "target.density": 1,
            "training.teacher_epochs": "2",
            "data.rows": "100",
        }
    )
    assert (recipe.target.density, recipe.data.rows) == (1, 100)
    training = recipe.training
    assert (training.epochs, training.batch_size, training.teacher_epochs) == (3, 8, 2)
    assert type(training.epochs) is float and type(training.batch_size) is int


@pytest.mark.parametrize("density", [0, -0.5, 1.01, 5])
def test_a_density_is_a_fraction(density):
    text = refusal(LEAST | {"target.density": density}, r"not in \(0, 1\], the fraction of the parameters to keep: ")
    assert f"density {density:g}" in text


@pytest.mark.parametrize("end", [0.2, 0.3])
def test_pruning_needs_some_of_the_steps(end):
    refusal(
        LEAST | {"method.begin": 0.3, "method.end": end},
        f"method.begin 0.3 must be smaller than method.end {end}: .* a part of the run$",
    )


def test_options_override_the_file(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ntraining: {learning_rate: 0.1}\nseed: 1\n")
    recipe = read(tmp_path / "r.yaml", {"seed": 2})
    assert (recipe.training.learning_rate, recipe.seed) == (0.1, 2)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2", "1.0e-3", "0.001", "'1e-3'"])
def test_a_number_may_have_an_exponent_without_a_point(tmp_path, text):
    """YAML 1.1 reads 1e-3 as a string."""
    (tmp_path / "r.yaml").write_text(
        f"model: m\ndata: d\ntraining: {{learning_rate: {text}}}\nmethod: {{options: {{beta: {text}}}}}\n"
    )
    recipe = read(tmp_path / "r.yaml", {})
    assert recipe.training.learning_rate == 1e-3
    assert recipe.method.options == {"beta": text.strip("'") if "'" in text else 1e-3}


@pytest.mark.parametrize("name", ["e-3", "1e", "1e3x", "v1e3", "1-e3", "0x1e3g", "1e-3"])
def test_a_name_that_looks_like_a_number_stays_a_name(tmp_path, name):
    recipe = make({"model": name, "data": name})
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert read(tmp_path / "r.yaml", {}) == recipe


TWICE = {
    "a key": ("model: m\ndata: d\ndensity: 0.5\ndensity: 0.05\n", "'density' twice, the second time in line 4:"),
    "the same value": ("model: m\ndata: d\nseed: 1\nseed: 1", "'seed' twice"),
    "quoted": ('model: m\ndata: d\n"data": e', "'data' twice, the second time in line 3:"),
    "within": ("model: m\ndata: d\nmethod: {options: {beta: 0.9, alpha: 1, beta: 0.5}}", "'beta' twice"),
    "within a list": ("model: m\ndata: d\nmethod: {options: {x: [{a: 1, a: 2}]}}", "'a' twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_repeated_key_is_refused(tmp_path, name):
    text, message = TWICE[name]
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=f"r.yaml has the key {message}.* keep one of them$") as refused:
        read(tmp_path / "r.yaml", {})
    assert "\n" not in str(refused.value)


def test_keys_of_a_merge_may_be_repeated(tmp_path):
    options = "{base: &base {a: 1, b: 2}, own: &own {<<: *base, a: 3}, last: {<<: *own}}"
    (tmp_path / "r.yaml").write_text(f"model: m\ndata: d\nmethod: {{options: {options}}}\n")
    assert read(tmp_path / "r.yaml", {}).method.options["last"] == {"a": 3, "b": 2}


MERGES = {
    "own keys win": ("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}", {"x": 1, "y": 3}),
    "the first mapping wins": ("{a: &a {x: 1}, c: &c {x: 2, z: 4}, b: {<<: [*a, *c], y: 3}}", {"x": 1, "z": 4, "y": 3}),
    "what overrides is merged first": ("{a: &a {x: 1}, c: &c {<<: *a, x: 2}, b: {<<: [*c, *a]}}", {"x": 2}),
    "itself": ("{b: &b {<<: *b, x: 1}}", {"x": 1}),
    "the key =": ("{a: &a {=: 1}, b: {<<: *a}}", {"=": 1}),
    "a list as a key": ("{a: &a {x: 1}, b: {<<: *a, [1]: 2}}", "is not YAML"),
    "no mapping": ("{b: {<<: 3}}", "expected a mapping for merging in line 1, but found a scalar"),
}


@pytest.mark.parametrize("name", MERGES)
def test_mappings_are_merged_in_one_way_by_every_version_of_the_library(name):
    text, expected = MERGES[name]
    if isinstance(expected, dict):
        assert recipe_yaml.parse(text, "the recipe")["b"] == expected
    else:
        with pytest.raises(UserError, match=expected):
            recipe_yaml.parse(text, "the recipe")


BROKEN = {
    "unclosed": (b"model: [", "is not YAML"),
    "two colons": (b"model: a: b", "is not YAML"),
    "no such day": (b"model: 2024-13-99", "is not YAML"),
    "python": (b"!!python/object/apply:os.system [ls]", "is not YAML"),
    "zero byte": (b"model: \x00", "is not YAML"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "a list": (b"- model", "holds list: expected keys and values"),
    "empty": (b"", "holds NoneType: expected keys and values"),
    "unknown key": (b"model: m\ndata: d\ndensety: 1", "did you mean 'target.density'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_refused_with_its_path(tmp_path, name):
    text, message = BROKEN[name]
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / "r.yaml", {})
    assert str(tmp_path / "r.yaml") in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "nothing.yaml", {})


@pytest.mark.parametrize("written", ["0.1,0.4, 0.2", [0.1, 0.4, 0.2], (0.4, 0.2, 0.1)])
def test_several_densities_are_sorted_and_each_has_a_recipe(written):
    recipe = make(LEAST | {"target.density": written})
    assert recipe.target.density == recipe.target.densities == (0.4, 0.2, 0.1)
    assert [(one.target.density, one.target.toward) for one in recipe.each()] == [(0.4, 0.1), (0.2, 0.1), (0.1, None)]
    assert recipe.each()[-1] == make(LEAST | {"target.density": 0.1})


@pytest.mark.parametrize("written", ["0.1", 0.1, [0.1]])
def test_one_density_is_a_number(written):
    recipe = make(LEAST | {"target.density": written})
    assert recipe.target.density == 0.1 and recipe.target.densities == (0.1,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target.density": "0.1,much"}, r"^r\.yaml: density 'much' is no fraction"),
        ({"target.density": [0.1, True]}, "expected a number"),
        ({"target.density": "0.2,0.2"}, r"density 0\.2, 0\.2 contains one twice"),
        ({"target.density": "0.2,0.1", "target.toward": 0.05}, "must be a density below target.density"),
        ({"target.density": 0.1, "target.toward": 0.2}, "must be a density below target.density"),
    ],
)
def test_invalid_densities_are_refused(values, message):
    refusal(LEAST | values, message)


# Spellings

SPELLINGS = {
    "grouped": {"data": {"source": "d", "rows": 9}, "method": {"name": "cofi", "end": 0.6}, "training": {"epochs": 8}},
    "dotted": {"data.source": "d", "data.rows": 9, "method.name": "cofi", "method.end": 0.6, "training.epochs": 8},
    "flat": {"data": "d", "rows": 9, "method": "cofi", "end": 0.6, "epochs": 8},
    "mixed": {"data": "d", "data.rows": 9, "method": "cofi", "method.end": 0.6, "training": {"epochs": 8}},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_key_is_grouped_dotted_or_flat(name):
    made = make({"model": "m"} | SPELLINGS[name])
    assert made == make({"model": "m"} | SPELLINGS["grouped"])
    assert (made.data.source, made.method.name, made.training.epochs) == ("d", "cofi", 8)


def test_flat_keys_are_reported_in_one_line(caplog, tmp_path):
    make(LEAST | SPELLINGS["mixed"])
    assert caplog.records == []
    make(LEAST | {"epochs": 8, "task_options": {}, "target_shape": [1, 8], "speedup": 2}, "r.yaml")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name.startswith("secateur.")
    for part in ("r.yaml", "epochs is now training.epochs", "task_options is now data.options", "target.shape"):
        assert part in record.getMessage()
    assert "\n" not in record.getMessage()


def test_every_flat_key_has_a_grouped_key():
    assert set(FLAT.values()) | {"model", "teacher", "seed", "data.source", "method.name"} == set(KEYS) - NEW


NEW = {
    "target.embedding_svd",
    "card.model_id",
    "card.base_model",
    "card.dataset",
    "target.uniform",
    "target.timed",
    "target.beams",
    "data.evaluation",
    "data.pooling",
    "target.output_dim",
    "target.size",
    "storage.dtype",
    "storage.embeddings",
    "data.labels",
    "data.tuning_rows",
    "distillation.check_teacher",
    "distillation.terms",
    "measurement.retention",
    "measurement.baselines",
    "training.steps",
    "training.teacher_steps",
    "training.minutes",
    "training.cuda_graphs",
    "method.layer_round",
    "method.trial",
    "method.trial_rows",
    "method.ramp_rows",
    "method.refit",
    "target.layers",
    "target.layer_rule",
    "target.keep_score",
    "vocabulary.pieces",
    "vocabulary.texts",
    "vocabulary.min_count",
}
"""Keys that version 0.1.0 did not have."""


def test_values_of_either_version_are_upgraded_to_groups():
    flat = {"model": "m", "data": "d", "task": "tokens", "method": "grain", "options": {"beta": 0.9}, "seed": 1}
    now = upgrade(flat)
    assert now == {
        "model": "m",
        "data": {"source": "d", "task": "tokens"},
        "method": {"name": "grain", "options": {"beta": 0.9}},
        "seed": 1,
    }
    assert upgrade(now) == now and upgrade({"mine": 3}) == {"mine": 3}
    made = make(OTHER).to_dict()
    assert grouped(dotted(made)) == upgrade(made) == made


def test_a_key_in_two_spellings_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\nepochs: 3\ntraining: {epochs: 4}\n")
    with pytest.raises(UserError, match=r"has the key 'training\.epochs' twice, in two spellings: keep one of them$"):
        read(tmp_path / "r.yaml", {})
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\nepochs: 3\n")
    assert read(tmp_path / "r.yaml", {"training.epochs": 4}).training.epochs == 4


@pytest.mark.parametrize("group", ["training", "target", "measurement"])
def test_a_group_that_is_not_a_mapping_is_refused(group):
    refusal(LEAST | {group: 3}, f"^r.yaml: {group}: expected keys and values, not 3$")
