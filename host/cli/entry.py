"""The group of all commands, and how what goes wrong is said."""

import io
import os
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.cli.bench_command import bench_command
from tokenloom.host.cli.blocks_command import blocks_command
from tokenloom.host.cli.estimate_command import estimate_command
from tokenloom.host.cli.eval_command import eval_command
from tokenloom.host.cli.generate_command import generate_command
from tokenloom.host.cli.run_command import run_command
from tokenloom.host.cli.schedule_command import schedule_command
from tokenloom.host.cli.synth_command import synth_command

__all__ = ["cli", "main"]


def _version() -> str:
    try:
        return version("tokenloom")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=_version(), prog_name="tokenloom")
def cli() -> None:
    """Turn a Llama-family checkpoint and an FPGA board into an inference chip in Verilog."""


for _command in (
    eval_command,
    run_command,
    generate_command,
    blocks_command,
    synth_command,
    schedule_command,
    bench_command,
    estimate_command,
):
    cli.add_command(_command)


def _usage(error: click.ClickException) -> str:
    """What click says is wrong, on one line, and what is allowed where it leaves that out."""
    text, allowed = " ".join(error.format_message().split()).rstrip("."), []
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        text = f"No such option '{error.option_name}'"
        if error.possibilities:
            return f"{text} (did you mean {' or '.join(sorted(error.possibilities))}?)"
        parameters = [] if context is None else context.command.get_params(context)
        allowed = [max(one.opts, key=len) for one in parameters if isinstance(one, click.Option)]
    elif isinstance(context, click.Context) and isinstance(context.command, click.Group):
        allowed = list(context.command.commands)
    return f"{text}; allowed: {', '.join(sorted(allowed))}" if allowed else text


def _drop_output() -> None:
    """Keep the interpreter from writing to stdout at its end what could not be written before."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line; an error of the user's or the system's becomes one line and code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may have any character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:  # wrong usage
        click.echo(f"error: {_usage(error)}", err=True)
        sys.exit(2)
    except TokenloomError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a reader that went away
        where = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        _drop_output()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
