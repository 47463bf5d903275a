"""The command `halfstride`: its options, its exit codes, and how it reports errors.

Nothing heavy is imported here. A command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import halfstride
from halfstride._support.extras import naming_extras

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Convolutional autoencoders for your own images, and the upsampling layers that every decoder stands on.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The exit code is 0 when all is done, 1 for an error that the user can correct (3 under --check, where 1 means that
    something was found), 2 for wrong usage, and 130 for Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    try:
        with naming_extras():
            code = app([argument for argument in given if argument != "--debug"], "halfstride", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output, such as `head`, has ended. Python would print an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:  # where typer was not at work yet
        code = 130
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError, typer.TyperException) as error:
        if debug:
            raise
        # Under --check 1 means that something was found, and 3 that it could not be judged.
        code = error.exit_code if isinstance(error, typer.TyperException) else 3 if "--check" in given else 1
        if text := _in_one_line(error):
            print(f"error: {_naming_options(text, given)}", file=sys.stderr)
    if code == 130:
        # Python ends itself by a signal where Ctrl-C came while it ran code from text, as it does for each dataclass,
        # although the exception was caught; running some more makes it forget that.
        exec("")
    sys.exit(code)


_OTHER_NAMES = {"corruption": "corrupt", "beta": "variational", "image_size": "size", "latent_dim": "latents"}
"""Parameters in Python, and what a command calls them that has no option of their name."""


def _naming_options(text: str, given: Sequence[str]) -> str:
    """An error of a function in Python with the names that its parameters have on the command line."""
    command: Any = typer.main.get_command(app)
    for argument in given:
        command = getattr(command, "commands", {}).get(argument, command)
    flags = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if parameter.param_type_name == "option"
    }
    flags = {name: flags[other] for name, other in _OTHER_NAMES.items() if other in flags} | flags
    return re.sub(r"`(\w+)`", lambda name: f"`{flags.get(name[1], name[1])}`", text)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        text = error.format_message()  # empty where typer has printed the help instead
        context = getattr(error, "ctx", None)
        if text and context:
            text += f"{'' if text.endswith(('.', '?')) else '.'} Try '{context.command_path} --help'."
        return text
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Where commands print to: colours in a terminal, plain text in a pipe.

    Args:
        quiet: prints nothing.
        stderr: prints to stderr, for a command whose stdout is JSON.
    """
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, quiet=quiet, stderr=stderr)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"halfstride {halfstride.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere in the line.")
    ] = False,
) -> None:
    # `main` takes --debug out of the line, wherever it stands; it is declared here for the help.
    pass
