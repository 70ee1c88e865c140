"""Voila for `adlib inspect`: this machine alone, with a token; no code, no file and no error's details on the page."""

c = get_config()  # noqa: F821  given by Voila

c.Voila.ip = "127.0.0.1"
c.Voila.open_browser = False  # `adlib inspect --browser` opens one, at the address with the token
c.Voila.tornado_settings = {
    "allow_remote_access": False,  # requests that name another host are refused
    # Voila's page asks a network for icons and fonts of formulas; ours asks this machine alone, whatever a store holds.
    "headers": {
        "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'self'; object-src 'none'"
    },
}
c.VoilaConfiguration.file_allowlist = []
c.VoilaConfiguration.theme = "light"
c.VoilaConfiguration.show_tracebacks = False
# A page that was closed without saying so leaves its kernel behind.
c.MappingKernelManager.cull_interval = 60
c.MappingKernelManager.cull_idle_timeout = 600
c.KernelManager.transport = "ipc"  # sockets in a folder of the server's own, no TCP ports that others could reach
