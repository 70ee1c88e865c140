"""The command line: `adlib --help`. It parses, calls the library, prints; nothing here would need a test of its own.

Exit codes: 0 done; 1 the work failed (one line per failure, the rest finished); 2 wrong use or missing input.
"""

import errno
import sys
from typing import Annotated

import typer

from adlib.cli import batches, data, lists, own, stored
from adlib.cli.weights import distill, pretrain, weights_app
from adlib.errors import InputError
from adlib.files import printable

app = typer.Typer(
    name="adlib",
    help="Industrial visual anomaly detection: reproduce benchmarks, run methods, read reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (*lists.COMMANDS, *data.COMMANDS, *own.COMMANDS, *batches.COMMANDS, *stored.COMMANDS):
    app.command()(command)
app.command("inspect")(stored.inspect_stored_runs)
for command in (batches.scheduler, batches.worker):  # their options are Dask's
    app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})(
        command
    )
app.command()(pretrain)
app.command()(distill)
app.add_typer(weights_app, name="weights")

# A path that was given cannot be used; any other failure of the system is one of the work.
OF_THE_PATH = (
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR),
    *(errno.EPERM, errno.EROFS),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from adlib import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it and end")
    ] = False,
) -> None:
    """Industrial visual anomaly detection: reproduce benchmarks, run methods, read reports."""


def main() -> None:
    """Entry point: a person's mistake is one sentence and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except InputError as error:
        print(f"adlib: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except UnicodeEncodeError as error:
        name = error.object[:200] if isinstance(error.object, str) else error.object
        print(f"adlib: {printable(name)} is a name that is no Unicode: rename it.", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"adlib: {printable(place)}{error.strerror or error}.", file=sys.stderr)
        sys.exit(2 if error.errno in OF_THE_PATH else 1)


if __name__ == "__main__":
    main()
