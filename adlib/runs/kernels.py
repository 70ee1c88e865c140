"""Kernels of runs: forked, where the system allows it, from a process that has imported torch once for all of them.

Importing torch, timm and matplotlib takes longer than many a run. A worker therefore keeps a server, a process that
has imported them and does nothing else (no thread, no CUDA, no random number), and each run's kernel is a fork of it:
a process of its own, in a session of its own, that can be killed alone. The server reads requests on its standard
input; when that closes, because its worker has ended in whatever way, it ends its kernels and itself.

As a program, `python -m adlib.runs.kernels` is that server.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from adlib.runs import environment

START_SECONDS = 300  # for the server's imports and a fork, on a busy machine
# What every run imports. A method's own module is imported when the first run of that method asks for it.
COMMON = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "matplotlib_inline.backend_inline",
    "adlib.features.backbones",
    "adlib.training.loop",
    "adlib.images",
    "adlib.predictions",
    "adlib.phantoms",
    "adlib.figures",
    "adlib.metrics",
    "adlib.report",
    "adlib.baselines",
    "adlib.screening",
    "adlib.runs.record",
)


def can_fork() -> bool:
    """Whether kernels can be forked here: on Linux, where that is safe after these imports."""
    return sys.platform == "linux"


class KernelServer:
    """The server as seen by its worker. variables: its environment, in which the number of torch's threads is set."""

    def __init__(self, variables: dict[str, str]):
        self._variables, self._started, self._kernels = variables, {}, {}
        self._news = threading.Condition()
        self._launch()

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "adlib.runs.kernels"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._variables,
            start_new_session=True,  # Ctrl-C is the batch's business
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True, name="kernel server").start()

    def start(self, arguments: list[str], folder: str, variables: dict, log: Path, imports: list[str]):
        """Fork a kernel; returns a ForkedKernel.

        arguments: ipykernel's. folder: to work in. variables: its environment. log: the file that gets what it prints.
        imports: modules that the server imports first, for this kernel and all later ones.
        A server that has been killed is started anew. Raises OSError when it ends meanwhile.
        """
        name = uuid.uuid4().hex
        request = {"name": name, "arguments": arguments, "folder": str(folder), "variables": variables}
        line = json.dumps(request | {"log": str(log), "imports": imports}) + "\n"
        with self._news:
            if self._process.poll() is not None:
                self._launch()
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
            deadline = time.monotonic() + START_SECONDS
            while name not in self._started:
                if self._process.poll() is not None:
                    raise OSError("The process that forks kernels has ended.")
                if time.monotonic() > deadline:
                    self._process.kill()
                    raise OSError(f"The process that forks kernels gave no sign of life for {START_SECONDS} s.")
                self._news.wait(1)
            return self._started.pop(name)

    def close(self) -> None:
        """End the server and its kernels."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            news = json.loads(line)
            with self._news:
                if "name" in news:
                    self._started[news["name"]] = self._kernels[news["pid"]] = ForkedKernel(news["pid"])
                else:
                    self._kernels.pop(news["pid"]).ended(news["status"])
                self._news.notify_all()
        with self._news:  # the server is dead, and so are its kernels
            for kernel in self._kernels.values():
                kernel.ended(-signal.SIGKILL)
            self._kernels.clear()
            self._news.notify_all()


class ForkedKernel:
    """A forked kernel with what jupyter_client asks of a subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid, self.returncode, self._end = pid, None, threading.Event()

    def ended(self, status: int) -> None:
        self.returncode = status
        self._end.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._end.wait(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def processor_seconds(pid: int) -> float | None:
    """Processor time that a kernel and the processes of its session have used so far; None where nothing tells.

    Processes that have ended are counted as far as their parents have collected them.
    """
    total, ticks = 0, os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid:  # session
                total += sum(map(int, fields[11:15]))  # user and system time, its own and its children's
    return total / ticks if sys.platform == "linux" else None


def kernel_manager(server: KernelServer | None, log: Path, imports: list[str], started: list) -> type:
    """The class that nbclient makes its kernel manager of: it starts one kernel and appends its process to `started`.

    server: forks it; None starts it as a program. log: the file that gets what the kernel itself prints.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options):
            if server is None:
                with log.open("ab") as output:
                    info = await super().launch_kernel(cmd, **options, stdout=output, stderr=subprocess.STDOUT)
            else:
                arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
                self.cwd = options.get("cwd") or str(Path.cwd())
                self.process = server.start(arguments, self.cwd, options["env"], log, imports)
                self.pid = self.pgid = self.process.pid
                info = self.connection_info
            started.append(self.process)
            return info

    class Manager(AsyncKernelManager):
        def __init__(self, **options):
            super().__init__(**options)
            self.provisioner = Provisioner(kernel_id=uuid.uuid4().hex, kernel_spec=self.kernel_spec, parent=self)

    return Manager


# The server itself.


def serve() -> None:
    """Fork a kernel for each line of standard input, and tell on standard output which begin and how they end."""
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a module prints on import must not look like a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waker, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _import(COMMON)
    environment.code()  # the version that has been imported, whatever becomes of the files
    kernels: set[int] = set()
    waiting = b""
    while True:
        ready, _, _ = select.select([requests, waker], [], [])
        if waker in ready:
            os.read(waker, 4096)
            for pid, status in _ended(kernels):
                _reply(replies, {"pid": pid, "status": status})
        if requests in ready:
            chunk = os.read(requests, 1 << 16)
            if not chunk:
                break
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                _import(request["imports"])
                gc.freeze()  # the collector of a kernel leaves alone what all of them share
                pid = os.fork()
                if pid == 0:
                    for descriptor in (requests, replies, waker, wake):
                        os.close(descriptor)
                    _become_kernel(request)
                kernels.add(pid)
                _reply(replies, {"name": request["name"], "pid": pid})
    for pid in kernels:
        _end_group(pid)
    os._exit(0)  # no farewell of the many modules


def _import(names) -> None:
    """Import modules as far as they can be: what cannot is the run's to fail with, in its notebook."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _ended(kernels: set[int]) -> list[tuple[int, int]]:
    """Collect the kernels that have ended: (pid, exit status, negative for a signal)."""
    found = []
    for pid in list(kernels):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            kernels.remove(pid)
            _end_group(pid)  # processes that the kernel has left behind
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _reply(replies: int, content: dict) -> None:
    with contextlib.suppress(BrokenPipeError):  # the worker has ended: so do we, with the next request that is none
        os.write(replies, (json.dumps(content) + "\n").encode())


def _become_kernel(request: dict) -> None:
    """In the fork: a session, working folder, environment and log of its own, then ipykernel. Does not return."""
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a kernel does not outlive its server
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["variables"])
        from ipykernel.kernelapp import IPKernelApp

        arguments = [*request["arguments"], f"--IPKernelApp.parent_handle={os.getppid()}"]
        sys.argv = ["ipykernel", *arguments]
        kernel = IPKernelApp.instance()
        kernel.initialize(arguments)
        # Figures become pictures by what the backend sets up on import in a kernel; here it was imported before.
        kernel.shell.enable_matplotlib("inline")
        kernel.start()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
