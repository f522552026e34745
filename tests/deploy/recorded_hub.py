"""The hub, as far as publishing uses it: it records every call, which must fit the real client, and keeps the files."""

from inspect import signature
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


def refusal(status, message, kind=HfHubHTTPError):
    """What the client raises for an answer of the hub."""
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(f"{status} Client Error. (Request ID: Root=1)\n\n{message}", response=response, server_message=message)


class RecordedHub:
    """Takes the place of `HfApi`.

    Attributes:
        files: branch -> path -> bytes; None while the repository does not exist.
        failures: name of a call -> what it raises.
    """

    def __init__(self, files=None, *, private=False, token="hf_x", **failures):
        self.files = None if files is None else {"main": {".gitattributes": b"", **files}}
        self.private, self.token, self.failures, self.calls = private, token, failures, []

    def _called(self, name, *given, **options):
        signature(getattr(HfApi, name)).bind(self, *given, **options)
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def model_info(self, name, **options):
        self._called("model_info", name, **options)
        if self.files is None:
            raise refusal(404, "Repository Not Found", RepositoryNotFoundError)
        if (files := self.files.get(options.get("revision", "main"))) is None:
            raise refusal(404, "Invalid rev id", RevisionNotFoundError)
        return SimpleNamespace(
            sha=f"sha-{len(files)}", private=self.private, siblings=[SimpleNamespace(rfilename=path) for path in files]
        )

    def create_repo(self, name, **options):
        self._called("create_repo", name, **options)
        assert self.files is None
        self.files, self.private = {"main": {".gitattributes": b""}}, bool(options.get("private"))

    def create_branch(self, name, **options):
        self._called("create_branch", name, **options)
        self.files.setdefault(options["branch"], dict(self.files["main"]))

    def create_commit(self, name, operations, **options):
        self._called("create_commit", name, operations, **options)
        files, operations = self.files[options["revision"]], list(operations)
        assert options["parent_commit"] in (None, f"sha-{len(files)}")
        self.message = options["commit_message"]
        self.operations = [(type(one).__name__.removeprefix("CommitOperation"), one.path_in_repo) for one in operations]
        for one in operations:
            if isinstance(one, CommitOperationAdd):
                content = one.path_or_fileobj
                files[one.path_in_repo] = content if isinstance(content, bytes) else Path(content).read_bytes()
            else:
                del files[one.path_in_repo]
        return SimpleNamespace(commit_url=f"hub/{name}/commit/1")

    def download(self, folder, branch="main"):
        """Write the files of a branch to a folder."""
        for path, content in self.files[branch].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder
