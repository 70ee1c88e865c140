"""JupyterLab for adlib: this machine alone, with a token; `make lab` uses it."""

from pathlib import Path

from jupyterlab.commands import get_workspaces_dir
from jupyterlab_server.workspaces_handler import WORKSPACE_EXTENSION, WorkspacesManager, slugify

here = Path(__file__).parent
c = get_config()  # noqa: F821  given by Jupyter

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 8888  # the next free one if it is taken
c.ServerApp.root_dir = str(here.parent)
c.ServerApp.open_browser = True
c.ServerApp.allow_root = True  # in a container there often is nobody else
# The token is Jupyter's own, a new one at every start: it stands in the address that the terminal shows.

c.LabApp.app_settings_dir = str(here / "lab")  # overrides.json; your own settings in JupyterLab win over it

# The workspace "adlib": the first notebook, table of contents beside it. It is laid down once, into the folder where
# JupyterLab keeps all its workspaces; from then on it is yours, and shows what was open last.
workspaces = Path(get_workspaces_dir())
if not (workspaces / (slugify("adlib") + WORKSPACE_EXTENSION)).exists():
    WorkspacesManager(str(workspaces)).save("adlib", (here / "lab" / "workspace.json").read_text(encoding="utf-8"))
c.LabApp.default_url = "/lab/workspaces/adlib/tree/notebooks/00_start_here.ipynb"
