"""A repository of models on the hub, to which all files go in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from secateur.system.errors import UserError, reason_of

MAIN = "main"
KEPT = (".gitattributes",)
"""Files that the hub itself puts into a repository."""
ADVICE = {
    400: "correct what the hub names",
    401: "run hf auth login, or set HF_TOKEN to a token that is valid",
    403: "use a token that may write there, or another name",
    404: "check the name, and that the token may write there",
    409: "choose another name, or use a token that may read it",
    412: "somebody else has changed it meanwhile: publish again",
}
"""Status of an answer of the hub -> what to do."""
SHOWN = 5


@dataclass(frozen=True)
class Repository:
    """A repository of models, which may not be there yet.

    Attributes:
        api: the client of the hub.
        name: `org/name`.
        revision: a branch, which is made if it is missing.
    """

    api: HfApi
    name: str
    revision: str = MAIN

    def publish(
        self, contents: Mapping[str, Path | bytes], *, message: str, private: bool, replace: bool
    ) -> tuple[str, tuple[str, ...]]:
        """Put files into the repository by one commit; returns its address and the files that it has deleted.

        Args:
            contents: path in the repository -> file or content.
            private: of a new repository; one that is there must be private already.
            replace: whether the commit deletes the other files of a repository that is there.

        Raises:
            UserError: the repository has other files, or is public; or the hub refuses or cannot be reached. None of
                the files is published then.
        """
        with self._explained("looking at"):
            info = self._info()
        others = () if info is None else self._others(info, contents)
        if info is not None and private and not info.private:
            raise UserError(f"{self.name} is there and public: leave --private out, or choose another name")
        if others and not replace:
            raise UserError(
                f"{self.name} has other files, {_listed(others)}: with --replace the same commit deletes them, or "
                "choose another name"
            )
        made = info is None
        with self._explained("making"):
            self._make(made, private)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(path) for path in others]
        operations += [CommitOperationAdd(path, content) for path, content in contents.items()]
        with self._explained("writing to", "; it was made and is empty" if made else "; it is as it was"):
            done = self.api.create_commit(
                self.name,
                operations,
                commit_message=message,
                revision=self.revision,
                parent_commit=None if info is None else info.sha,
            )
        return str(done.commit_url), others

    def _info(self) -> Any:
        """What the hub says of the branch, or of `main` where that is not there; None without a repository."""
        try:
            return self.api.model_info(self.name, revision=self.revision)
        except RevisionNotFoundError:
            return self.api.model_info(self.name)
        except RepositoryNotFoundError:
            return None

    def _others(self, info: Any, contents: Mapping[str, Path | bytes]) -> tuple[str, ...]:
        there = [one.rfilename for one in info.siblings or ()]
        return tuple(sorted(path for path in there if path not in contents and path not in KEPT))

    def _make(self, missing: bool, private: bool) -> None:
        """Make the repository and the branch, as far as they are missing."""
        if missing:
            self.api.create_repo(self.name, private=private or None)  # without a wish, as the organisation has it
        if self.revision != MAIN:
            self.api.create_branch(self.name, branch=self.revision, exist_ok=True)

    @contextmanager
    def _explained(self, doing: str, left: str = "") -> Iterator[None]:
        """Turn what fails into one sentence: the hub's client raises errors of several libraries.

        Args:
            left: the state of the repository when it fails.
        """
        try:
            yield
        except Exception as error:
            reason, advice = _explanation(error)
            raise UserError(
                f"{self.name} was not published, {doing} it on the hub failed ({reason}){left}: {advice}"
            ) from error


def _explanation(error: Exception) -> tuple[str, str]:
    """The reason of a failure, and what to do."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = error.server_message or reason_of(error)
        return " ".join(reason.split())[:300].rstrip(".:"), ADVICE.get(status, "try again later")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set", "unset it"
    return reason_of(error), "check the network, and try again"


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
