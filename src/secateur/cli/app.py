"""The command `secateur`: its general options, and what it prints of an error.

Exit codes: 0 success; 1 `verify` found a difference; 2 a mistake of the user's, reported in one sentence; 130
interrupted. Tables, or JSON under `--json`, go to stdout; progress, warnings and errors go to stderr.

Nothing here imports torch or transformers: `--help` and `--version` answer at once.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from secateur.cli.commands import COMMANDS, Commands
from secateur.cli.logs import quiet_libraries, show_logs, show_warnings
from secateur.cli.output import show_lines, show_message
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.registry import import_extension
from secateur.system.version import VERSION

RESUMABLE = ("prune", "demo")
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_MESSAGES = (
    "No space left on device",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos ",
    "iostream error",
)
"""How safetensors and PyTorch, which give no error number, report that a disk is full."""


class Verbs(TyperGroup):
    """The group of all commands: a mistake of the user's is reported in one sentence, a bug with its traceback."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": Commands()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            _prepare(ctx.params["extensions"] or [])
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _report_interruption(ctx.invoked_subcommand)
        except typer.Exit:
            raise
        except Exception as error:
            processes.let_main_report()
            sentence = _explained(error)
            if sentence is None:
                raise
            show_message(f"error: {' '.join(sentence.split())}")
            raise typer.Exit(2) from None


def _prepare(extensions: list[str]) -> None:
    """Set up the output of the libraries, then import what registers names, which the help of a command may list."""
    show_logs()
    quiet_libraries()
    for extension in extensions:
        import_extension(extension)


def _report_interruption(command: str | None) -> NoReturn:
    if processes.is_main():
        resumable = ": the same command continues from the last checkpoint" if command in RESUMABLE else ""
        show_message(f"interrupted{resumable}")
    raise typer.Exit(130) from None


def _explained(error: Exception) -> str | None:
    """What the user can do about an error; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    for cause in _causes(error):
        if getattr(cause, "errno", None) in LOCKED:
            return f"a place cannot be written ({cause}): choose another, or allow it and repeat the command"
    for cause in _causes(error):
        if getattr(cause, "errno", None) in FULL or any(message in str(cause) for message in FULL_MESSAGES):
            return f"the disk is full ({cause}): free space and repeat the command"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


app = typer.Typer(
    cls=Verbs,
    help="Prune Transformers for a task and get back smaller, faster, ordinary models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The command `secateur`."""
    show_warnings()
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        show_lines(f"secateur {VERSION}")
        raise typer.Exit


@app.callback()
def general_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    extensions: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            help="Module or .py file that registers methods, tasks, ... of its own; repeatable.",
        ),
    ] = None,
) -> None:
    """The options before the command, which `Verbs.invoke` follows before it imports the command."""


if __name__ == "__main__":
    main()
