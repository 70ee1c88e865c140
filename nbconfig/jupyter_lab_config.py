"""JupyterLab for adlib: this machine alone, with a token; `make lab` uses it."""

from pathlib import Path

here = Path(__file__).parent
c = get_config()  # noqa: F821  given by Jupyter

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.root_dir = str(here.parent)
c.ServerApp.open_browser = True
# The token is Jupyter's own, a new one at every start: it stands in the address that the terminal shows.

c.LabApp.app_settings_dir = str(here / "lab")  # overrides.json
