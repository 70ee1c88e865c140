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
from adlib.runs.execute import Conditions

CONNECT_SECONDS = 30  # to wait for a scheduler's answer
_SETTINGS = {
    # The memory that counts is the kernels', which Dask does not see; its own limits would only be in the way.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.scheduler.allowed-failures": 2,  # workers that may die under one run
    "distributed.scheduler.worker-saturation": 1.0,  # no run waits for one worker while another is free
    "distributed.comm.timeouts.connect": "60s",
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
    ("tcp://host:8786") whose workers are used instead. conditions: of each run.

    with Workers(jobs=4) as workers: run_all(runs, store, workers)
    Workers start with the first batch and end with the block.
    """

    jobs: int | None = None
    scheduler: str = ""
    conditions: Conditions = field(default_factory=Conditions)
    _client: object = None
    _cluster: object = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._client is not None:
            self._client.close()
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
            from distributed import Client

            dask.config.set(_SETTINGS)
            if not self.scheduler:
                self._cluster = _local_cluster(self.jobs or default_jobs())
            try:
                self._client = Client(self.scheduler or self._cluster, timeout=CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"No Dask scheduler answers at {self.scheduler!r} ({error}): start one with `dask scheduler`, and "
                    "workers with `dask worker ADDRESS`, as the README says."
                ) from error
            if self._cluster is not None:
                self._client.register_plugin(_interrupts_left_to_the_batch())
        return self._client

    @property
    def started(self) -> bool:
        return self._client is not None

    def slots(self) -> int:
        """How many runs the workers that are here now can do at once."""
        with suppress(OSError, ValueError, RuntimeError):  # the scheduler is about to leave
            return sum(self._client.nthreads().values())
        return 0

    def resources(self) -> dict:
        """What a run asks of its worker: a GPU, if any worker offers GPUs."""
        offered = self._client.run_on_scheduler(_offered_resources)
        return {"GPU": 1} if "GPU" in offered else {}

    def dashboard(self) -> str:
        """The address of Dask's dashboard, or "" where it does not run (it needs the package bokeh)."""
        return self._client.dashboard_link if self._client.run_on_scheduler(_has_bokeh) else ""


def _offered_resources(dask_scheduler) -> set[str]:
    return {name for worker in dask_scheduler.workers.values() for name in worker.resources}


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


def _interrupts_left_to_the_batch():
    """Ctrl-C reaches every process of a terminal; only the batch itself knows how to end in order."""
    from distributed import WorkerPlugin

    class LeaveInterrupts(WorkerPlugin):
        name = "adlib-interrupts"

        def setup(self, worker) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return LeaveInterrupts()


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(index) for index in range(torch.cuda.device_count())]


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
        _server = kernels.KernelServer(os.environ | variables | folder)
    return _server
