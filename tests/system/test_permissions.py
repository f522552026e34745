"""What is written has the permissions that the umask allows, whatever a library writes."""

import os
import stat

import pytest

from secateur.system.files import atomic_folder, atomic_path, atomic_write


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def private(path):
    """A file as safetensors 0.8 writes it."""
    path.write_text("weights")
    path.chmod(0o600)


def test_a_folder_and_all_in_it_have_the_permissions_of_new_ones(umask, tmp_path):
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "inner").mkdir(mode=0o700)
        private(partial / "model.safetensors")
        private(partial / "inner" / "more.safetensors")
    files = {path.name: mode(path) for path in (tmp_path / "model").rglob("*")}
    written = 0o666 & ~umask
    assert files == {"inner": 0o777 & ~umask, "model.safetensors": written, "more.safetensors": written}
    assert mode(tmp_path / "model") == 0o777 & ~umask


def test_a_file_has_the_permissions_of_a_new_one(umask, tmp_path):
    with atomic_path(tmp_path / "best.safetensors") as partial:
        private(partial)
    atomic_write(tmp_path / "plan.json", "{}")
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "best.safetensors": 0o666 & ~umask,
        "plan.json": 0o666 & ~umask,
    }


def test_a_folder_in_one_that_hands_its_group_on_does_so_too(umask, tmp_path):
    tmp_path.chmod(0o2777)
    (tmp_path / "new").mkdir()
    if not mode(tmp_path / "new") & stat.S_ISGID:
        pytest.skip("new folders do not inherit setgid here")
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "inner").mkdir()
        private(partial / "model.safetensors")
    assert mode(tmp_path / "model") == mode(tmp_path / "model" / "inner") == mode(tmp_path / "new")
    assert mode(tmp_path / "model" / "model.safetensors") == 0o666 & ~umask
