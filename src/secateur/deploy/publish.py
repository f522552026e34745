"""Publishing a model folder on the hub: everything is checked here first, then uploaded in one commit, or nothing is.

Files of a repository that is there are replaced by those of the same name. If it has other files, which would be mixed
with these, such as the shards of an older model, publishing is refused, or deletes them in the same commit (`replace`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token

from secateur.deploy.card_metadata import KEYS
from secateur.deploy.hub_repository import MAIN, Repository
from secateur.deploy.upload_set import Stated, upload_set
from secateur.surgery.hub import may_be_on_hub
from secateur.system.errors import UserError
from secateur.system.version import VERSION

FULL_NAME = re.compile(r"[^/\s]+/[^/\s]+")


@dataclass(frozen=True)
class Published:
    """What was published, or would be.

    Attributes:
        name: of the repository.
        revision: the branch.
        files: path in the repository -> bytes.
        deleted: files that were in the repository and are no more.
        left_out: files of the folder that are not published.
        header: of the card, as the hub reads it.
        address: of the commit; None of a dry run, which uploads nothing and does not ask the hub.
    """

    name: str
    revision: str
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    header: Mapping[str, Any]
    deleted: tuple[str, ...] = ()
    address: str | None = None
    missing: tuple[str, ...] = field(init=False)
    """Keys that the hub reads and the card does not have."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing", tuple(key for key in KEYS if key not in self.header))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "revision": self.revision,
            "address": self.address,
            "files": dict(self.files),
            "deleted": list(self.deleted),
            "left_out": list(self.left_out),
            "header": dict(self.header),
            "missing": list(self.missing),
        }


def publish(
    folder: Path | str,
    name: str,
    *,
    onnx: Path | str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    private: bool = False,
    revision: str = MAIN,
    message: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Published:
    """Upload a model with its code, plan, card, sums and tokenizer to the hub, in one commit.

    The card is completed on the way (the folder stays as it is): keys of its header that are missing and known, the
    name in its examples, and the names on the hub of the base model and the data where it names a folder here.

    Args:
        folder: of a finished run, or of a model, compact or ordinary, with a `README.md`.
        name: `org/name`; a repository that is not there is made.
        onnx: a folder of `export_folder` of the same model: its graphs are added, and its tokenizer, with one length
            everywhere, takes the place of the model's, so that servers give the vectors that PyTorch gives.
        base_model: its name on the hub, where the card does not know it.
        dataset: its name on the hub, likewise.
        license: as the hub abbreviates it, such as apache-2.0, where the card has none.
        private: whether a new repository is private.
        revision: a branch, which is made if it is missing.
        message: of the commit.
        replace: whether files of the repository that are not published now are deleted; otherwise they are refused.
        dry_run: check and list the files only; needs neither a token nor a network.
        api: a client of the hub of one's own, such as one with a token or another endpoint.

    Raises:
        UserError: before anything is uploaded, a check has failed (`upload_set`), there is no token, or the repository
            has other files; or the hub has refused the commit, and nothing of it is there.
    """
    if FULL_NAME.fullmatch(name) is None or not may_be_on_hub(name):
        raise UserError(f"expected a name on the hub in the form ORG/NAME, got {name!r}: name the owner and the model")
    if not dry_run:
        api = api or HfApi()
        _check_token(api)
    stated = Stated(base_model, dataset, license)
    onnx = None if onnx is None else Path(onnx)
    found = upload_set(Path(folder), name, stated=stated, onnx=onnx, on_main=revision == MAIN)
    known: dict[str, Any] = {"files": found.sizes(), "left_out": found.left_out, "header": found.header}
    if api is None or dry_run:
        return Published(name, revision, **known)
    done = Repository(api, name, revision).publish(
        found.files, message=message or f"Upload by secateur {VERSION}", private=private, replace=replace
    )
    address, deleted = done
    return Published(name, revision, **known, deleted=deleted, address=address)


def _check_token(api: HfApi) -> None:
    if not (api.token or get_token()):
        raise UserError("there is no token for the hub: run hf auth login, or set HF_TOKEN to a token that may write")
