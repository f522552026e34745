"""Images: folders and columns of them are read, converted and learned from, and what cannot be read is named."""

import json
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from small_world import recipe_values
from tiny_models import random_masks, tiny
from transformers import ViTImageProcessorPil, pipeline

from secateur.budget.space import Space
from secateur.measure.evaluation import encoded, scores
from secateur.run import pipeline as runs
from secateur.run import recipe
from secateur.run.teacher_check import check_tokens
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.image_reader import ImageReader
from secateur.surgery.opening import check_vocabulary, open_tokenizer
from secateur.system.errors import MissingPackage, UserError
from secateur.tasks.images import Images
from secateur.training.teacher_cache import CachedTeacher

pillow = pytest.importorskip("PIL.Image")
COLOURS = {"dark": 20, "light": 230}


def picture(name, number, mode="RGB"):
    """20 x 10 pixels that are dark or light, each picture another one."""
    shades = np.random.default_rng(number).integers(0, 20, (10, 20, 3)) + COLOURS[name]
    return pillow.fromarray(shades.astype(np.uint8)).convert(mode)


def write(folder, count=6):
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(name, number).save(folder / name / f"{number}.png")
    return folder


def png(image):
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def reader():
    return ImageReader(ViTImageProcessorPil(size={"height": 8, "width": 8}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def model():
    names = {0: "dark", 1: "light"}
    return tiny("vit", dtype=torch.float32, id2label=names, label2id={name: k for k, name in names.items()})


def task_of(data):
    return recipe.make({"model": "m", "data": str(data)}).data.task


def batch_of(task, reader, split="train"):
    return task.collator(reader)(encoded(task, split, reader, 128))


def test_a_folder_of_classes_is_divided_by_class(folder):
    task = Images.from_data(str(folder))
    assert task.labels == ("dark", "light") and task.metric == "accuracy" and task.origin.scored is None
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 11, "validation": 1}
    assert task.described()["images"] == "image" and task.described()["labels"].startswith("label, 2 classes: ")


def test_folders_of_splits_are_the_splits(tmp_path):
    write(tmp_path / "train", 3)
    write(tmp_path / "test", 2)
    task = Images.from_data(str(tmp_path))
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 6, "validation": 4}
    assert (task.origin.train, task.origin.scored) == ("train", "test")
    assert task_of(tmp_path) == "images"
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    assert task_of(tmp_path) == "classification"


def test_a_column_of_images_is_read_as_a_folder_is(folder, tmp_path, reader):
    """With other names, and stored as bytes: what a model reads of them is the same."""
    rows = [(picture(name, number), index) for index, name in enumerate(COLOURS) for number in range(6)]
    features = Features({"img": Image(), "fine_label": ClassLabel(names=list(COLOURS))})
    table = Dataset.from_dict({"img": [one for one, _ in rows], "fine_label": [k for _, k in rows]}, features=features)
    DatasetDict(train=table, test=table).save_to_disk(tmp_path / "table")
    task, other = Images.from_data(str(tmp_path / "table")), Images.from_data(str(folder), rows=11)
    assert task.labels == other.labels and task.columns == ("img", "digest")
    batch = batch_of(task, reader)
    assert batch["pixel_values"].shape == (12, 3, 8, 8) and batch["labels"].tolist() == [0] * 6 + [1] * 6
    by_label = {bool(label): one for one, label in zip(*batch_of(other, reader).values(), strict=True)}
    assert float(batch["pixel_values"][0].mean()) < -0.5 < 0.5 < float(batch["pixel_values"][-1].mean())
    assert float(by_label[False].mean()) < 0 < float(by_label[True].mean())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_an_image_of_any_mode_is_converted(mode, reader):
    images = [{"bytes": png(picture("light", 1)), "path": None}]
    made = picture("light", 1, mode)
    file = BytesIO()
    made.save(file, "tiff")
    pixels = reader([*images, {"bytes": file.getvalue(), "path": "a.tiff"}])
    assert pixels.shape == (2, 3, 8, 8) and float((pixels[0] - pixels[1]).abs().mean()) < 0.2


def test_a_damaged_image_is_named_before_anything_is_trained(tmp_path, reader):
    write(tmp_path)
    (tmp_path / "dark" / "2.png").write_bytes((tmp_path / "dark" / "1.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"dark/2.png cannot be read as an image .* repair or remove it"):
        Images.from_data(str(tmp_path))
    with pytest.raises(UserError, match="row 0 of the train split cannot be read as an image"):
        reader([{"bytes": b"no image", "path": "row 0 of the train split"}])


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"image": ["a", "b"], "label": [0, 1]}, {}, "column 'image' of the train split holds string, not images"),
        ({"text": ["a", "b"], "label": [0, 1]}, {}, "image"),
        ({"image": [png(picture("dark", 1))] * 2, "label": ["a", None]}, {}, "row 1 of the train split.*has no label"),
        ({"image": [None, png(picture("dark", 1))], "label": ["a", "b"]}, {}, "row 0 of the train split.*no image"),
        ({"image": [png(picture("dark", 1))] * 2, "label": ["a", "a"]}, {}, "the same label"),
        ({"image": [png(picture("dark", 1))] * 4, "label": ["a", "b"] * 2}, {"metric": "bleu"}, "metric 'bleu'"),
    ],
    ids=["paths", "no images", "no label", "no image", "one class", "metric"],
)
def test_data_that_does_not_fit_is_refused(columns, options, said, tmp_path):
    kind = Image() if any(isinstance(one, bytes) for one in columns.get("image", ())) else Value("string")
    features = None if "image" not in columns else Features({"image": kind, "label": Value("string")})
    columns = columns if features is None else columns | {"label": [one and str(one) for one in columns["label"]]}
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "table")
    with pytest.raises(UserError, match=said):
        Images.from_data(str(tmp_path / "table"), **options)


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([0.25, 4.5] * 2, Value("float64"), "in 'score' are decimals, .* one class: name another column by --label"),
        ([1.0, 2.0] * 2, Value("float32"), "are decimals, .*, or the classes by --labels"),
        ([[1, 0], [0, 1]] * 2, List(Value("int64")), r"are lists, and an image has one class: .*\(data.label\)$"),
        (["['a']", "['a', 'b']"] * 2, Value("string"), "are lists, and an image has one class"),
    ],
)
def test_labels_of_images_that_are_no_classes_are_refused(labels, kind, said, tmp_path):
    columns = {"image": [png(picture("dark", number)) for number in range(4)], "score": labels}
    Dataset.from_dict(columns, features=Features({"image": Image(), "score": kind})).save_to_disk(tmp_path / "table")
    with pytest.raises(UserError, match=said):
        Images.from_data(str(tmp_path / "table"))


def test_whole_decimals_that_are_named_are_classes_of_images(tmp_path):
    columns = {"image": [png(picture("dark", number)) for number in range(6)], "score": [1.0, 2.0] * 3}
    Dataset.from_dict(columns, features=Features({"image": Image(), "score": Value("float32")})).save_to_disk(tmp_path)
    assert Images.from_data(str(tmp_path), labels=("1", "2")).labels == ("1", "2")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"problem_type": "multi_label_classification"}, "several labels a row .*: give another model$"),
        ({"num_labels": 1}, "the data has 2 labels .*: give a model with an output for each label$"),
    ],
)
def test_a_head_that_images_do_not_fit_is_refused_with_what_a_user_can_do(head, said, folder, model):
    for name, value in head.items():
        setattr(model.config, name, value)
    model.config.architectures = ["ViTForImageClassification"]
    with pytest.raises(UserError, match=said):
        Images.from_data(str(folder)).fitted(model, "model")


def test_the_fingerprint_is_of_the_images_and_not_of_their_place(folder, tmp_path):
    write(tmp_path / "copy")
    first = Images.from_data(str(folder)).fingerprint()
    assert Images.from_data(str(tmp_path / "copy")).fingerprint() == first
    picture("dark", 99).save(tmp_path / "copy" / "dark" / "0.png")
    assert Images.from_data(str(tmp_path / "copy")).fingerprint() != first


def test_a_cut_model_is_saved_with_its_image_processor_and_scored(folder, model, reader, tmp_path):
    space = Space(model, "hidden", "head")
    small = cut(model, Plan.of(space, random_masks(space, 0.7)))
    save(small, tmp_path / "small", tokenizer=reader)
    assert "preprocessor_config.json" in (tmp_path / "small" / "SHA256SUMS").read_text()
    read, task = open_tokenizer(tmp_path / "small"), Images.from_data(str(folder))
    check_vocabulary(read, load(tmp_path / "small"), "small")
    found = scores(load(tmp_path / "small"), task.fitted(model, "model"), encoded(task, "train", read, 128), read)
    assert set(found) == {"accuracy", "f1", "matthews"} and found == scores(
        small, task, encoded(task, "train", reader, 128), reader
    )


def test_a_reader_that_does_not_fit_is_refused(folder, model, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"reads images of 3 channels of 8 x 8, .* makes 3 channels of 9 x 8"):
        check_vocabulary(ImageReader(ViTImageProcessorPil(size={"height": 9, "width": 8})), model, "it")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no image processor that loads .* preprocessor_config.json"):
        open_tokenizer(tmp_path)
    with pytest.raises(UserError, match="needs a model that reads images"):
        Images.from_data(str(folder)).collator("a tokenizer")
    monkeypatch.setattr("secateur.system.packages.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"run pip install pillow$"):
        ImageReader.open(tmp_path)


def test_a_teacher_that_reads_images_in_another_way_is_refused(folder, model, reader, tmp_path):
    wanted = recipe.make({"model": "m", "data": str(folder), "teacher": str(tmp_path)})
    context = SimpleNamespace(recipe=wanted, data=SimpleNamespace(task=Images.from_data(str(folder)), tokenizer=reader))
    save(model, tmp_path, tokenizer=reader)
    check_tokens(context)
    mean = {"image_mean": [0.1, 0.5, 0.5]}
    ViTImageProcessorPil(size={"height": 8, "width": 8}, **mean).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="makes other tokens than the model's of 1 of 1 rows split off from training"):
        check_tokens(context)


def test_a_cached_teacher_says_of_images_what_the_teacher_says(folder, model, reader, tmp_path):
    """And other images of the same names are another entry."""
    task = Images.from_data(str(folder))
    rows = [{**row, "index": number} for number, row in enumerate(encoded(task, "train", reader, 128))]
    collate = task.collator(reader)
    cached = CachedTeacher.of(model, rows, collate, tmp_path, layers=[0, 2])
    batch = collate(rows[3:5])
    said = cached(index=batch["index"], output_hidden_states=True)
    own = model(pixel_values=batch["pixel_values"], output_hidden_states=True)
    torch.testing.assert_close(said.logits, own.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.hidden_states[2].float(), own.hidden_states[2], rtol=1e-2, atol=1e-2)
    assert said.hidden_states[0].shape == (2, 5, 32)
    entries = set(tmp_path.iterdir())
    CachedTeacher.of(model, [rows[0], {**rows[1], "digest": "another"}, *rows[2:]], collate, tmp_path, layers=[0, 2])
    assert len(set(tmp_path.iterdir()) - entries) == 1


def test_a_run_learns_from_images_whose_task_is_not_named(model, reader, tmp_path):
    """A teacher is trained first, whose outputs are cached; the result is an ordinary model of a pipeline."""
    save(model.base_model, tmp_path / "encoder", tokenizer=reader)
    own = {"training.epochs": 1, "target.units": ["ffn", "hidden"]}
    folder = write(tmp_path / "data", count=10)  # of which one image of each class is split off
    wanted = recipe.make(recipe_values(str(tmp_path / "encoder"), str(folder)) | own)
    assert wanted.data.task == "images"
    report = runs.run(wanted, tmp_path / "run")
    assert report.metric == "accuracy" and report.parameters["model"] < report.parameters["teacher"]
    assert [one["protocol"]["tokens"] for one in report.latency] == [5]
    (said,) = pipeline("image-classification", model=str(tmp_path / "run" / "model"), top_k=1)(picture("dark", 1))
    assert said["label"] in COLOURS
    assert 'pipeline("image-classification"' in (tmp_path / "run" / "model" / "README.md").read_text()


def test_images_are_predicted_from_the_command_line(folder, model, reader, tmp_path, secateur):
    save(model, tmp_path / "model", tokenizer=reader)
    path = str(folder / "light" / "1.png")
    (found,) = json.loads(secateur("predict", tmp_path / "model", path, "--json"))
    assert found["input"] == path and found["label"] in COLOURS and sum(found["scores"].values()) == pytest.approx(1)
