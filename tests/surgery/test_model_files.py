"""A model that is saved in a folder replaces a model that is there, and nothing else."""

import errno
import os
from pathlib import Path

import pytest
import torch
import transformers
from small_world import tokenizer
from tiny_models import random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.compact import SUMS
from secateur.surgery.cut import cut
from secateur.surgery.model_files import OF_TOKENIZER
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.folder import new_head
from secateur.system.errors import UserError

COMPACT = {"config.json", "model.safetensors", "modeling_secateur.py", "plan.json", SUMS}
WORDS = {"tokenizer.json", "tokenizer_config.json"}


def small(*which, units=("ffn",)):
    model = tiny(*(which or ("bert",)), dtype=torch.float32)
    space = Space(model, *units)
    return cut(model, Plan.of(space, random_masks(space)))


def content(folder):
    """Path in a folder -> what is there: bytes, the place of a link, or nothing of a folder."""
    found = {}
    for path in folder.rglob("*"):
        own = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[path.relative_to(folder).as_posix()] = own
    return found


@pytest.fixture
def project(tmp_path):
    """A folder with years of work."""
    folder = tmp_path / "project"
    for name in ("thesis.txt", "report.json", "src/run.sh", "src/deep/data.csv", "plan.json", "model_notes.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}, by hand")
    (folder / "empty").mkdir()
    (folder / "src" / "run.sh").chmod(0o750)
    (folder / "latest").symlink_to("src/deep")
    (folder / "nowhere").symlink_to("/no/such/place")
    return folder


@pytest.fixture(params=[False, True], ids=["hard links", "a disk without them"])
def disk(request, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param:
        monkeypatch.setattr(os, "link", refused)


def test_what_is_no_models_stays_when_a_model_is_saved_beside_it(project, disk):
    before = content(project)
    save(tiny("bert", dtype=torch.float32), project)
    after = content(project)
    assert before.items() < after.items()
    assert set(after) - set(before) == {"config.json", "model.safetensors"}
    assert (project / "src" / "run.sh").stat().st_mode & 0o777 == 0o750
    assert [path.name for path in project.parent.iterdir()] == ["project"]


def test_a_file_that_a_model_writes_is_replaced_and_the_others_are_not_listed(project):
    save(small(), project)
    assert set(content(project)) > COMPACT and (project / "plan.json").read_text()[0] == "{"
    (project / "thesis.txt").write_text("another chapter")
    load(project)


def test_a_tokenizer_that_was_saved_first_stays_and_is_listed(tmp_path):
    tokenizer().save_pretrained(tmp_path / "model")
    before = content(tmp_path / "model")
    save(small(), tmp_path / "model")
    assert set(content(tmp_path / "model")) == COMPACT | WORDS
    assert before.items() < content(tmp_path / "model").items()
    listed = (tmp_path / "model" / SUMS).read_text()
    assert all(f"  {name}\n" in listed for name in WORDS)
    load(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the file that was saved"):
        load(tmp_path / "model")


def test_templates_of_chats_stay_with_their_tokenizer_or_go_with_it(tmp_path):
    words, templates = tokenizer(), {"additional_chat_templates/rag.jinja", "chat_template.jinja"}
    words.chat_template = {"default": "{{ messages }}", "rag": "{{ documents }}"}
    words.save_pretrained(tmp_path)
    save(small(), tmp_path)
    assert all(f"  {name}\n" in (tmp_path / SUMS).read_text() for name in templates)
    load(tmp_path)
    save(small(), tmp_path, tokenizer=tokenizer())
    assert set(content(tmp_path)) == COMPACT | WORDS
    load(tmp_path)


@pytest.mark.parametrize("cuts", [True, False], ids=["compact", "dense"])
def test_no_file_of_the_model_before_stays(tmp_path, cuts):
    encoder = attach_head(tiny("bert", "Model", dtype=torch.float32), new_head("mean", 32))
    space = Space(encoder, "ffn")
    save(cut(encoder, Plan.of(space, random_masks(space))), tmp_path, tokenizer=tokenizer())
    encoder.save_pretrained(tmp_path, max_shard_size="9KB")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "notes.md").write_text("read me")
    assert {"1_Pooling", "modules.json", "model.safetensors.index.json"} < set(content(tmp_path))
    model = small("bert", "ForSequenceClassification") if cuts else tiny("bert", "ForSequenceClassification")
    save(model, tmp_path)
    own = COMPACT if cuts else {"config.json", "model.safetensors"}
    assert set(content(tmp_path)) == own | WORDS | {"notes.md"}


def test_a_failed_save_leaves_everything(project, monkeypatch):
    save(small(), project)
    before = content(project)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken in ("link", "rename"):
        with monkeypatch.context() as patch:
            if broken == "link":
                patch.setattr("secateur.system.files._link", full)
            else:
                patch.setattr(Path, "rename", full)
            with pytest.raises(UserError, match="nothing was written"):
                save(small(units=("head",)), project)
        assert content(project) == before and [path.name for path in project.parent.iterdir()] == ["project"]


def test_a_folder_where_a_file_is_to_be_written_is_not_lost(tmp_path):
    (tmp_path / "model" / "plan.json").mkdir(parents=True)
    (tmp_path / "model" / "plan.json" / "thesis.txt").write_text("years of work")
    before = content(tmp_path)
    with pytest.raises(UserError, match="nothing was written"):
        save(small(), tmp_path / "model")
    assert content(tmp_path) == before


def test_all_that_is_there_goes_where_that_is_asked_for(project):
    save(small(), project, replace=True)
    assert set(content(project)) == COMPACT


def test_a_card_stays_unless_another_one_is_given(tmp_path):
    (tmp_path / "README.md").write_text("# theirs\n")
    save(small(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "# theirs\n" and "README" not in (tmp_path / SUMS).read_text()
    save(small(), tmp_path, card="# ours\n")
    assert (tmp_path / "README.md").read_text() == "# ours\n"


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "model").symlink_to("large disk")
    for _ in range(2):
        save(small(), tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"large disk", "model"}
    assert set(content(tmp_path / "large disk")) == COMPACT


@pytest.mark.parametrize("kind", ARCHITECTURES.all())
def test_the_files_of_the_tokenizer_of_every_family_are_known(kind):
    known = transformers.TOKENIZER_MAPPING.get(transformers.CONFIG_MAPPING[kind], None)
    for one in known if isinstance(known, tuple) else (known,):
        assert one is None or set(one.vocab_files_names.values()) <= OF_TOKENIZER
