"""Start Dask workers on Slurm, one job per GPU, for `adlib reproduce --scheduler ADDRESS`; Ctrl-C ends them.

    pip install -e '.[cluster]'
    python nbconfig/cluster/slurm.py --jobs 8 --partition gpu --interface ib0 [--show]

It needs the clone, its environment, the data and the output folder on a file system that all nodes share. Run it where
it may stay for as long as the batch takes (a login node in tmux, or a job of its own). A job that Slurm takes back or
that reaches its time limit loses nothing but what its run did since its last checkpoint: Dask gives the run to another
worker, and dask-jobqueue asks Slurm for a new job. A worker that has lost the scheduler is started again in its job.
"""

import argparse
import os
import signal
import sys

from adlib.runs.cluster import VARIABLES

os.environ.update(VARIABLES | os.environ)  # Dask reads them when it is imported
from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--jobs", type=int, default=4, help="workers, each a job with one GPU")
parser.add_argument("--partition", help="Slurm's partition")
parser.add_argument("--account", help="Slurm's account")
parser.add_argument("--cpus", type=int, default=8, help="processors of a job")
parser.add_argument("--memory", default="32GB", help="memory of a job")
parser.add_argument("--hours", type=int, default=24, help="time limit of a job")
parser.add_argument("--gpu", default="--gres=gpu:1", help="how this cluster's Slurm is asked for a GPU")
parser.add_argument("--interface", help="network interface of the nodes, e.g. ib0")
parser.add_argument("--show", action="store_true", help="print the job that Slurm would get, and end")
given = parser.parse_args()

cluster = SLURMCluster(
    queue=given.partition,
    account=given.account,
    cores=1,  # one run at a time; its kernel gets the processors, by the resource CPU
    processes=1,
    job_cpu=given.cpus,
    memory=given.memory,
    walltime=f"{given.hours}:00:00",
    interface=given.interface,
    job_extra_directives=[given.gpu],
    worker_command="adlib.runs.cluster worker",
    worker_extra_args=["--resources", f"GPU=1,CPU={given.cpus}", "--no-dashboard"],
    python=sys.executable,
)
if given.show:
    print(cluster.job_script())
    cluster.close()
    sys.exit()
cluster.adapt(minimum_jobs=given.jobs, maximum_jobs=given.jobs)  # jobs that end are replaced
try:
    print(f"adlib reproduce --profile paper --data DIR --out DIR --scheduler {cluster.scheduler_address}", flush=True)
    signal.pause()
except (KeyboardInterrupt, SystemExit):  # the second is what dask-jobqueue 0.9 makes of Ctrl-C
    cluster.close()
