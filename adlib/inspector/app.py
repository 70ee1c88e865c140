"""The inspector as an app: Voila shows stored runs in a browser, without code, on this machine, behind a token."""

import os
import secrets
import tempfile
import webbrowser
from pathlib import Path

import nbformat

from adlib.errors import InputError
from adlib.runs.environment import REPOSITORY

CONFIG = REPOSITORY / "nbconfig"  # voila.py: the address it listens on, what it shows, what it keeps to itself


def notebook_of_app(out: Path, keys: list[str], root: Path | None) -> nbformat.NotebookNode:
    """The notebook that Voila executes for each page: one cell, the inspector. Paths must be absolute."""
    arguments = (str(out), keys, None if root is None else str(root))
    code = nbformat.v4.new_code_cell(
        f"from adlib.inspector.stored_runs import inspect_runs\n\ninspect_runs{arguments!r}"
    )
    return nbformat.v4.new_notebook(
        cells=[code], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


def serve(out: Path, keys: list[str], root: Path | None = None, port: int = 8866, browser: bool = False) -> None:
    """Show the stored runs below `out` until interrupted; prints the address with its token once it can be opened.

    port: the first to try. browser: open the address in the default browser.
    Raises InputError when there is no run to show, or no Voila.
    """
    from adlib.inspector.stored_runs import comparable_runs

    out = Path(out).expanduser().resolve()
    comparable_runs(out, keys)  # no server for what could show nothing
    try:
        from tornado.ioloop import IOLoop
        from traitlets.config import Config
        from voila.app import Voila
    except ImportError as error:
        raise InputError(f"The app needs Voila, which is not installed here ({error}): `make setup`.") from error

    # The kernels must import the adlib that runs here, in this interpreter.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    token = secrets.token_hex(24)
    with tempfile.TemporaryDirectory(prefix="adlib-") as folder:
        notebook = Path(folder) / "inspector.ipynb"
        nbformat.write(notebook_of_app(out, keys, root and Path(root).expanduser().resolve()), notebook)
        given = {"token": token, "port": port, "root_dir": folder, "config_file_paths": [str(CONFIG)]}
        server = Voila(config=Config({"Voila": {**given, "log_level": "ERROR"}}))
        server.initialize([str(notebook)])

        def announce() -> None:
            address = f"{server.connection_url}?token={token}"
            print(f"The inspector is open at {address}\nEnd it with Ctrl+C.", flush=True)
            if browser:
                webbrowser.open(address)

        IOLoop.current().add_callback(announce)  # runs once the server listens
        server.start()
