"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tokenloom.host.jsonfile import check_writable

__all__ = ["FILE", "FOLDER", "OVERRIDES", "WEIGHTS", "common_options", "file_option", "writable"]


def writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be written, before the work whose result it shall hold."""
    if path is not None:
        check_writable(path)
    return path


FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def file_option(name: str, text: str) -> _Decorator:
    """An option --name FILE, a file to write; the parameter is name_file."""
    return click.option(
        f"--{name}", f"{name}_file", type=FILE, callback=writable, metavar="FILE", help=text
    )


OVERRIDES = click.option(
    "-P",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the hardware, as array.columns=8; may be repeated.",
)


WEIGHTS = click.option(
    "--weights",
    type=click.Choice(["q8_0", "q4_0", "q4_1", "nf4", "mxfp4", "iq4_nl"]),
    default="q8_0",
    show_default=True,
    help="What a checkpoint's dense matrices become; quantised ones stay as they are.",
)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has: --model, --board, -P and --json."""
    for option in (
        file_option("json", "Write the result to FILE."),
        OVERRIDES,
        click.option(
            "--board",
            default="sim",
            show_default=True,
            metavar="NAME|FILE",
            help="Hardware preset, or a TOML file.",
        ),
        click.option(
            "--model",
            default="smollm2",
            show_default=True,
            metavar="NAME|PATH",
            help="Model name, GGUF file, or folder in Hugging Face layout.",
        ),
    ):
        command = option(command)
    return command
