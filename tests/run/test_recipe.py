"""Recipes: small, flat, strict; what is wrong is named with its key."""

import pytest
import yaml
from pydantic import ValidationError

from secateur.methods import METHODS
from secateur.run.recipe import Recipe, make, read
from secateur.system.errors import UserError

LEAST = {"model": "m", "data": "d"}
# Every key with a value that is not its default.
OTHER = {
    "model": "folder/model",
    "data": "glue/sst2",
    "teacher": "t",
    "task": "tokens",
    "text": ("question", "sentence"),
    "label": "target",
    "metric": "f1",
    "rows": 100,
    "task_options": {"one": 1},
    "max_length": 64,
    "method": "magnitude",
    "options": {"beta": 0.9, "faithful": True, "names": ["a", None]},
    "units": ("head", "hidden"),
    "density": None,
    "latency": 5.0,
    "target_shape": (2, 16),
    "latency_table": "table.json",
    "round_to": 8,
    "embedding_rank": 16,
    "start": "model",
    "temperature": 1.0,
    "divergence": True,
    "logits_weight": 0.5,
    "hidden": (1, 3),
    "match": "windows",
    "hidden_projection": False,
    "hidden_weight": 0.5,
    "hidden_of": "decoder",
    "labels_weight": 0.25,
    "label_smoothing": 0.1,
    "epochs": 1.5,
    "begin": 0.0,
    "end": 0.5,
    "ramp": 0.25,
    "train": "scores",
    "batch_size": 8,
    "accumulate": 2,
    "learning_rate": 1e-5,
    "decay": "stage",
    "recover_learning_rate": 1e-6,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "freeze_embeddings": "all",
    "dropout": None,
    "bf16": True,
    "shrink": False,
    "cache": False,
    "cache_gb": 1.0,
    "evaluations": 2,
    "evaluation_rows": 50,
    "select": 10,
    "checkpoints": 0,
    "report_to": ("tensorboard",),
    "teacher_epochs": 1.0,
    "teacher_learning_rate": 1e-4,
    "shapes": ((2, 16),),
    "repeats": 5,
    "seed": 7,
}


def refusal(values, match):
    with pytest.raises(UserError, match=match) as refused:
        make(values, "r.yaml")
    text = str(refused.value)
    assert text.startswith("r.yaml") and "\n" not in text and ": :" not in text
    return text


def test_model_and_data_are_enough():
    recipe = make(LEAST)
    assert (recipe.method, recipe.density, recipe.units, recipe.seed) == ("grain", 0.05, ("ffn", "qk", "vo"), 0)
    assert recipe.teacher is recipe.embedding_rank is recipe.bf16 is None


@pytest.mark.parametrize("key", LEAST)
def test_model_and_data_are_needed(key):
    refusal({name: value for name, value in LEAST.items() if name != key}, f"r.yaml: {key}: field required$")


def test_a_recipe_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        make(LEAST).seed = 1


EXCLUDED = LEAST | {"density": 0.2, "toward": 0.1, "augment": 2, "average": 0.5}  # by others of those keys


@pytest.mark.parametrize("values", [LEAST, OTHER, EXCLUDED], ids=["defaults", "every key", "excluded keys"])
def test_yaml_has_every_key_and_reads_back_equal(values, tmp_path):
    recipe = make(values)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert list(yaml.safe_load(recipe.to_yaml())) == list(Recipe.model_fields)
    assert read(tmp_path / "recipe.yaml", {}) == recipe


@pytest.mark.parametrize("name", METHODS.all())
def test_a_methods_defaults_stand_where_the_recipe_says_nothing(name):
    defaults = METHODS.get(name).defaults
    made = make(LEAST | {"method": name}).model_dump()
    assert {key: made[key] for key in defaults} == dict(defaults)
    assert make(LEAST | {"method": name, "temperature": 3.0}).temperature == 3.0


def test_a_tasks_defaults_stand_before_a_methods():
    made = make(LEAST | {"method": "cofi", "task": "translation"})
    assert (made.temperature, made.hidden) == (1.0, "quarters"), "cofi's own temperature is 2"
    assert make(LEAST | {"method": "cofi", "task": "translation", "temperature": 3.0}).temperature == 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"select": 5, "evaluations": 0}, "without evaluations there is nothing to choose from"),
        ({"decay": "stage"}, "go together"),
        ({"recover_learning_rate": 1e-4}, "go together"),
        ({"augment": 1, "labels_weight": 0.5}, "a changed text has no label of its own; set labels_weight: 0"),
        ({"average": 0.5, "select": 5}, "select and average exclude each other"),
        ({"end": 1.0, "average": 0.5}, "end: 1 leaves no recovery"),
        ({"end": 1.0, "decay": "stage", "recover_learning_rate": 1e-4}, "end: 1 leaves no recovery"),
    ],
)
def test_keys_that_need_each_other(values, message):
    refusal(LEAST | values, message)


def test_the_other_values_are_every_key_and_no_default():
    other = make(OTHER).model_dump()
    excluded = ("speedup", "toward", "keep", "augment", "average")  # by the latency, labels_weight and select
    others = [key for key in Recipe.model_fields if key not in excluded]
    assert list(OTHER) == others
    assert all(other[key] != make(LEAST).model_dump()[key] for key in others)


@pytest.mark.parametrize(("given", "ms"), [("5ms", 5.0), ("0.005 s", 5.0), (5, 5.0), ("2.5", 2.5)])
def test_a_latency_may_say_its_unit(given, ms):
    recipe = make(LEAST | {"latency": given})
    assert (recipe.latency, recipe.density, recipe.speedup) == (ms, None, None)


def test_what_is_asked_for_goes_before_what_the_file_asks_for(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ndensity: 0.2\n")
    recipe = read(tmp_path / "r.yaml", {"speedup": 4})
    assert (recipe.speedup, recipe.density) == (4.0, None)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert read(tmp_path / "r.yaml", {}) == recipe
    again = read(tmp_path / "r.yaml", {"density": 0.2})
    assert (again.speedup, again.density) == (None, 0.2)
    counted = read(tmp_path / "r.yaml", {"keep": 12})
    assert (counted.speedup, counted.density, counted.keep, counted.densities) == (None, None, 12, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": 0.2, "speedup": 4}, "exclude each other: ask for one of them"),
        ({"latency": 5, "speedup": 4}, "exclude each other: ask for one of them"),
        ({"keep": 12, "density": 0.2}, "exclude each other: ask for one of them"),
        ({"keep": 12, "speedup": 4}, "exclude each other: ask for one of them"),
        ({"keep": 12, "target_shape": [8, 128]}, "go with a latency or a speedup"),
        ({"density": None}, "exclude each other: ask for one of them"),
        ({"target_shape": [8, 128]}, "go with a latency or a speedup"),
        ({"latency_table": "t.json"}, "go with a latency or a speedup"),
        ({"speedup": 1.0}, "speedup: .* greater than 1"),
        ({"latency": "soon"}, "write it like 5ms"),
        ({"latency": 0}, "latency: .* greater than 0"),
        ({"round_to": 0}, "round_to: .* greater than 0"),
    ],
)
def test_times_and_multiples_that_do_not_fit(values, message):
    refusal(LEAST | values, message)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("densty", "did you mean 'density'"),
        ("Units", "did you mean 'units'"),
        ("zzz", "known are model, data"),
        (3, "kn"),
    ],
)
def test_an_unknown_key_gets_the_nearest(key, hint):
    assert repr(key) in refusal(LEAST | {key: 1}, hint)


WRONG = [
    ("model", None),
    ("text", "sentence"),
    ("rows", 0),
    ("max_length", "long"),
    ("options", [1]),
    ("units", "ffn"),
    ("units", []),
    ("embedding_rank", 0),
    ("start", "here"),
    ("temperature", 0),
    ("hidden", 3),
    ("hidden_weight", -1),
    ("epochs", 0),
    ("epochs", float("inf")),
    ("begin", -0.1),
    ("begin", 1.1),
    ("end", 0.0),
    ("end", 1.1),
    ("train", "some"),
    ("keep", 0),
    ("keep", 1.5),
    ("batch_size", 0),
    ("batch_size", 1.5),
    ("batch_size", "many"),
    ("learning_rate", -1e-4),
    ("learning_rate", float("nan")),
    ("warmup", 1.0),
    ("dropout", 1.0),
    ("bf16", "maybe"),
    ("shapes", [[1, 2, 3]]),
    ("shapes", [[0, 8]]),
    ("seed", -1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_value_that_does_not_fit_is_named_with_its_key(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w]*: .*, not ")


NUMBERS = {"density", "speedup", "keep", *(key for key, value in OTHER.items() if type(value) in (int, float))}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_a_truth_value_is_no_number(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}: input should be a number, not {value}$")


@pytest.mark.parametrize(("key", "value"), [("hidden", [True, 2]), ("shapes", [[1, 32], [True, 8]])])
def test_a_truth_value_is_no_number_within_a_list(key, value):
    refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w]*: .*, not ")


@pytest.mark.parametrize("key", ["model", "text", "units", "hidden", "metric", "start"])
def test_a_truth_value_is_no_name(key):
    for value in (True, [True]):
        refusal(LEAST | {key: value}, rf"^r\.yaml: {key}[.\w]*: .*, not ")


def test_a_whole_number_is_a_number_with_a_point_and_back():
    recipe = make(LEAST | {"epochs": 3, "batch_size": 8.0, "density": 1, "teacher_epochs": "2", "rows": "100"})
    assert (recipe.epochs, recipe.batch_size, recipe.density, recipe.teacher_epochs, recipe.rows) == (3, 8, 1, 2, 100)
    assert type(recipe.epochs) is float and type(recipe.batch_size) is int


@pytest.mark.parametrize("density", [0, -0.5, 1.01, 5])
def test_a_density_is_a_fraction(density):
    text = refusal(LEAST | {"density": density}, r"not in \(0, 1\]: it is the fraction of parameters to keep$")
    assert f"density {float(density)}" in text


@pytest.mark.parametrize("end", [0.2, 0.3])
def test_pruning_needs_a_part_of_the_run(end):
    refusal(LEAST | {"begin": 0.3, "end": end}, f"begin 0.3 must be smaller than end {end}: .* a part of the run$")


def test_what_is_given_goes_before_the_file(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\nlearning_rate: 0.1\nseed: 1\n")
    recipe = read(tmp_path / "r.yaml", {"seed": 2})
    assert (recipe.learning_rate, recipe.seed) == (0.1, 2)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2", "1.0e-3", "0.001", "'1e-3'"])
def test_a_number_may_have_an_exponent_without_a_point(tmp_path, text):
    """YAML 1.1 reads 1e-3 as a string."""
    (tmp_path / "r.yaml").write_text(f"model: m\ndata: d\nlearning_rate: {text}\noptions: {{beta: {text}}}\n")
    recipe = read(tmp_path / "r.yaml", {})
    assert recipe.learning_rate == 1e-3
    assert recipe.options == {"beta": text.strip("'") if "'" in text else 1e-3}


@pytest.mark.parametrize("name", ["e-3", "1e", "1e3x", "v1e3", "1-e3", "0x1e3g", "1e-3"])
def test_a_name_stays_a_name(tmp_path, name):
    recipe = make({"model": name, "data": name})
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert read(tmp_path / "r.yaml", {}) == recipe


TWICE = {
    "a key": ("model: m\ndata: d\ndensity: 0.5\ndensity: 0.05\n", "'density' twice, the second time in line 4:"),
    "the same value": ("model: m\ndata: d\nseed: 1\nseed: 1", "'seed' twice"),
    "quoted": ('model: m\ndata: d\n"data": e', "'data' twice, the second time in line 3:"),
    "within": ("model: m\ndata: d\noptions: {beta: 0.9, alpha: 1, beta: 0.5}", "'beta' twice"),
    "within a list": ("model: m\ndata: d\noptions: {x: [{a: 1, a: 2}]}", "'a' twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_is_there_once(tmp_path, name):
    text, message = TWICE[name]
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=f"r.yaml has the key {message}.* keep one of them$") as refused:
        read(tmp_path / "r.yaml", {})
    assert "\n" not in str(refused.value)


def test_keys_of_a_merge_may_be_there_again(tmp_path):
    options = "{base: &base {a: 1, b: 2}, own: &own {<<: *base, a: 3}, last: {<<: *own}}"
    (tmp_path / "r.yaml").write_text(f"model: m\ndata: d\noptions: {options}\n")
    assert read(tmp_path / "r.yaml", {}).options["last"] == {"a": 3, "b": 2}


BROKEN = {
    "unclosed": (b"model: [", "is not YAML"),
    "two colons": (b"model: a: b", "is not YAML"),
    "no such day": (b"model: 2024-13-99", "is not YAML"),
    "python": (b"!!python/object/apply:os.system [ls]", "is not YAML"),
    "zero byte": (b"model: \x00", "is not YAML"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "a list": (b"- model", "holds list: expected keys and values"),
    "empty": (b"", "holds NoneType: expected keys and values"),
    "unknown key": (b"model: m\ndata: d\ndensety: 1", "did you mean 'density'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_its_path(tmp_path, name):
    text, message = BROKEN[name]
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / "r.yaml", {})
    assert str(tmp_path / "r.yaml") in str(refused.value) and "\n" not in str(refused.value)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "nothing.yaml", {})


@pytest.mark.parametrize("written", ["0.1,0.4, 0.2", [0.1, 0.4, 0.2], (0.4, 0.2, 0.1)])
def test_several_densities_fall_and_each_is_a_recipe_on_the_way_to_the_last(written):
    recipe = make(LEAST | {"density": written})
    assert recipe.density == recipe.densities == (0.4, 0.2, 0.1)
    assert [(one.density, one.toward) for one in recipe.each()] == [(0.4, 0.1), (0.2, 0.1), (0.1, None)]
    assert recipe.each()[-1] == make(LEAST | {"density": 0.1})


@pytest.mark.parametrize("written", ["0.1", 0.1, [0.1]])
def test_one_density_is_a_number(written):
    recipe = make(LEAST | {"density": written})
    assert recipe.density == 0.1 and recipe.densities == (0.1,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": "0.1,much"}, r"^r\.yaml: density"),
        ({"density": [0.1, True]}, "input should be a number"),
        ({"density": "0.2,0.2"}, r"density 0\.2, 0\.2 has one twice"),
        ({"density": "0.2,0.1", "toward": 0.05}, "no density below the one to keep"),
        ({"density": 0.1, "toward": 0.2}, "no density below the one to keep"),
    ],
)
def test_densities_that_make_no_sense_are_refused(values, message):
    refusal(LEAST | values, message)
