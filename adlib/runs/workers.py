"""The workers of a batch: Dask's, on this machine, or of a cluster that runs already.

A worker executes one run after the other, each in a kernel process of its own. Locally there is one worker per GPU, or
one per processor, and the processors are shared among them. Workers of a cluster are started by hand, by ssh or by
Slurm (nbconfig/cluster/); they see data and output under the same paths as the batch.
"""

import importlib.util
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adlib.errors import InputError
from adlib.runs import environment, kernels
from adlib.runs.cluster import MALLOC
from adlib.runs.conditions import Conditions

CONNECT_SECONDS = 30  # to wait for a scheduler's answer
AGAIN_SECONDS = 5  # the same, when a scheduler that was lost is looked for
_SETTINGS = {
    # The memory that counts is the kernels', which Dask does not see; its own limits would only be in the way.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Not {}: importing `distributed` would fill that with Dask's own. Its threshold has freed memory given back to the
    # system at once, and asked for again: millions of page faults in a minute of training.
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(
        ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    ),
    "distributed.scheduler.allowed-failures": 2,  # workers that may die under one run
    "distributed.scheduler.worker-saturation": 1.0,  # no run waits for one worker while another is free
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "300s",  # how long a network may be away before connections are given up
    "distributed.deploy.lost-worker-timeout": "365 days",  # a worker that died is started anew by its nanny alone
}


def default_jobs() -> int:
    """How many runs at once when nobody says: one per GPU, else one per processor, at most eight."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, min(environment.available_cpus(), 8))


@dataclass
class Workers:
    """Where runs are executed, and under which conditions.

    jobs: workers of a local cluster, `default_jobs` if None. scheduler: the address of a Dask scheduler
    ("tcp://host:8786") whose workers are used instead. conditions: of each run. patience: seconds that a batch waits
    while no worker is here or the scheduler does not answer, before it ends.

    with Workers(jobs=4) as workers: run_all(runs, store, workers)
    Workers start with the first batch and end with the block.
    """

    jobs: int | None = None
    scheduler: str = ""
    conditions: Conditions = field(default_factory=Conditions)
    patience: float = 3600.0
    _client: object = None
    _cluster: object = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._client is not None:
            with suppress(OSError, RuntimeError):  # a scheduler that does not answer
                self._client.close(timeout=AGAIN_SECONDS)
        if self._cluster is not None:
            self._cluster.close()
        self._client = self._cluster = None

    @property
    def client(self):
        """The Dask client; asking for it the first time starts the workers.

        Raises InputError when no scheduler answers at the address.
        """
        if self._client is None:
            import dask

            dask.config.set(_SETTINGS | _given_by_hand())
            environment.allow_open_files(1 if self.scheduler else self.jobs or default_jobs())
            if not self.scheduler:
                self._cluster = _local_cluster(self.jobs or default_jobs())
            try:
                self._connect(CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"No Dask scheduler answers at {self.scheduler!r} ({error}): start one with `adlib scheduler`, and "
                    "workers with `adlib worker ADDRESS`, as the README says."
                ) from error
        return self._client

    def _connect(self, seconds: float) -> None:
        from distributed import Client

        self._client = Client(self.scheduler or self._cluster, timeout=seconds, set_as_default=False)
        self._client.register_plugin(_farewell(ignore_interrupts=self._cluster is not None))

    def reach(self) -> bool:
        """Whether the client is connected now; one that has given up is replaced. What was given to it is lost then.

        A scheduler that was started anew knows nothing of this batch: whoever finds tasks lost must give them again.
        """
        if self._client.status == "closed":
            with suppress(OSError, ValueError, RuntimeError):
                self._connect(AGAIN_SECONDS)
        return self._client.status == "running"

    def address(self) -> str:
        """Of the scheduler."""
        return self.scheduler or self._cluster.scheduler_address

    def offers(self, client=None) -> list[dict]:
        """Of each worker that is here now its resources, with the number of runs that it does at once as "slots".

        client: to ask by, this one's if None. Waits for the answer, for as long as the connection is not given up.
        """
        return (client or self.client).run_on_scheduler(_offers)

    def resources(self) -> dict:
        """What a run asks of its worker: a GPU, if any worker offers GPUs."""
        return {"GPU": 1} if any(offer.get("GPU") for offer in self.offers()) else {}

    def dashboard(self) -> str:
        """The address of Dask's dashboard, or "" where it does not run (it needs the package bokeh)."""
        return self._client.dashboard_link if self._client.run_on_scheduler(_has_bokeh) else ""


def _given_by_hand() -> dict:
    """Those of the settings that somebody has set by Dask's own means (a file, DASK_... variables), as they are."""
    import dask

    found = {}
    for name in _SETTINGS:
        if f"DASK_{name.upper().replace('.', '__').replace('-', '_')}" in os.environ:
            found[name] = dask.config.get(name)
    return found


def _offers(dask_scheduler) -> list[dict]:
    return [worker.resources | {"slots": worker.nthreads} for worker in dask_scheduler.workers.values()]


def _has_bokeh() -> bool:
    return importlib.util.find_spec("bokeh") is not None


def _local_cluster(jobs: int):
    """A scheduler in this process and workers in processes of their own, on the loopback interface alone."""
    import logging

    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _gpus()
    threads = max(1, environment.available_cpus() // jobs)
    specification = {}
    for index in range(jobs):
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        resources = {"CPU": threads}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
            resources["GPU"] = 1
        options = {"nthreads": 1, "host": "127.0.0.1", "memory_limit": 0, "env": variables, "resources": resources}
        specification[index] = {"cls": Nanny, "options": options | {"silence_logs": logging.CRITICAL}}
    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": _has_bokeh(), "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(
        specification, {"cls": Scheduler, "options": scheduler}, silence_logs=logging.CRITICAL, name="adlib"
    )


def _farewell(ignore_interrupts: bool):
    """What a worker does besides its work: it ends its run in order when it leaves, because it was told to or has lost
    its scheduler; and where Ctrl-C reaches it together with the batch, it leaves that to the batch.
    """
    from distributed import WorkerPlugin

    class Farewell(WorkerPlugin):
        name = "adlib-farewell"
        idempotent = True

        def setup(self, worker) -> None:
            if ignore_interrupts:
                signal.signal(signal.SIGINT, signal.SIG_IGN)

        def teardown(self, worker) -> None:
            from adlib.runs.watch import LEAVING

            if worker.status.name in ("closing", "closed", "failed"):
                LEAVING.set()

    return Farewell()


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()  # CUDA leaves out what follows an unknown name: "0,-1,1" is the first one alone
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def check_device(device: str, jobs: int) -> None:
    """Raise InputError for one of several GPUs by its number: of so many local workers, each sees a GPU of its own."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number or (number == "0" and jobs == 1):
        return
    gpus = _gpus()
    if len(gpus) > 1 and number.isdecimal() and int(number) < len(gpus):
        raise InputError(
            f"device={device!r}: the workers of a batch give each run a GPU of its own, the only one that it sees. Use "
            f"device='cuda', and CUDA_VISIBLE_DEVICES={gpus[int(number)]} for that GPU alone."
        )


# In the worker.

_server: kernels.KernelServer | None = None


def kernel_server() -> kernels.KernelServer | None:
    """The process that forks this worker's kernels, started when first asked for; None where kernels cannot be forked.

    Its kernels compute with as many threads as the worker's resource "CPU" says, else with an equal share of the
    processors for each run that the worker does at once.
    """
    global _server
    if not kernels.can_fork():
        return None
    if _server is None:
        from distributed import get_worker

        state = get_worker().state
        threads = int(state.total_resources.get("CPU", environment.available_cpus() // state.nthreads)) or 1
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        python_path = os.pathsep.join(filter(None, [str(environment.REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        folder = {"PYTHONPATH": python_path, "PWD": str(Path.cwd())}
        _server = kernels.KernelServer(MALLOC | os.environ | variables | folder)
    return _server
