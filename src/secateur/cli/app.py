"""The command `secateur`: its general options, and what it prints of an error.

Exit codes: 0 success; 1 `verify` found a difference; 2 a mistake of the user's, reported in one sentence; 3 the model
keeps less of the score than `prune --keep-score` asked for, or the teacher that a run has trained has none to keep;
4 an unexpected error; 130 interrupted. Tables, or JSON under `--json`, go to stdout; progress, warnings and errors go
to stderr.

Nothing here imports torch or transformers: `--help` and `--version` answer at once.
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from secateur.cli.commands import COMMANDS, USAGE_ERROR, Commands
from secateur.cli.demo_recipes import installing_demo
from secateur.cli.errors import UNEXPECTED, ended_by
from secateur.cli.logs import quiet_libraries, show_logs, show_warnings
from secateur.cli.option_words import in_plain_words
from secateur.cli.output import show_lines, show_message
from secateur.system import processes
from secateur.system.registry import import_extension
from secateur.system.version import VERSION

RESUMABLE = ("prune", "demo", "sweep")
BEGIN = (
    (
        "secateur demo",
        "prune a small model on news, which needs neither a model nor data of your own: minutes, after "
        f"{installing_demo()}",
    ),
    (COMMANDS["prune"].example, "prune a model for your data: any csv file with a column of texts and one of labels"),
    ("secateur prune --help", "all options of a command"),
    ("secateur doctor", "what this machine can do"),
)
REPORTED: tuple[Any, ...] = (typer.Exit, typer.Abort, USAGE_ERROR)
"""What typer reports itself: the ends of a command, and words that it does not know."""


class Verbs(TyperGroup):
    """The group of all commands: a mistake of the user's is reported in one sentence, another error as it is."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": Commands()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("To begin"):
            formatter.write_dl(BEGIN)

    def invoke(self, ctx: Any) -> Any:
        try:
            _prepare(ctx.params["extensions"] or [])
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _report_interruption(ctx.invoked_subcommand)
        except REPORTED as error:
            raise in_plain_words(error) from None
        except Exception as error:
            processes.let_main_report()
            message, code = ended_by(error)
            show_message(message)
            raise typer.Exit(code) from (error if code == UNEXPECTED else None)


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


app = typer.Typer(
    cls=Verbs,
    help="Prune Transformers for a task and get back smaller, faster, ordinary models.",
    no_args_is_help=True,
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
