"""Publishing: put a model folder on the hub."""

from __future__ import annotations

from pathlib import Path

from secateur.cli.output import show_json, show_lines, show_table
from secateur.deploy.publish import Published, publish


def publish_model(
    *,
    folder: str,
    name: str,
    base_model: str | None,
    dataset: str | None,
    license: str | None,
    onnx: Path | None,
    private: bool,
    revision: str,
    message: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """What `secateur publish` does; the options are described where it is declared."""
    done = publish(
        folder,
        name,
        onnx=onnx,
        base_model=base_model,
        dataset=dataset,
        license=license,
        private=private,
        revision=revision,
        message=message,
        replace=replace,
        dry_run=dry_run,
    )
    if as_json:
        show_json(done.to_dict())
    else:
        _show(done)


def _show(done: Published) -> None:
    total = sum(done.files.values())
    show_table(("file", "bytes"), [*((name, f"{size:,}") for name, size in done.files.items()), ("all", f"{total:,}")])
    if done.left_out:
        show_lines(f"Not published: {', '.join(done.left_out)}.")
    if done.deleted:
        show_lines(f"Deleted from {done.name}: {', '.join(done.deleted)}.")
    if done.missing:
        show_lines(f"The header of the card does not say: {', '.join(done.missing)}.")
    if done.address is None:
        show_lines(f"Nothing was uploaded: these files would be {done.name}, branch {done.revision}.")
    else:
        show_lines(f"Published: {done.address}")
