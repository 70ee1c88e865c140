#!/bin/sh
# Start a Dask scheduler here and workers on several machines by ssh, for `adlib reproduce --scheduler ADDRESS`.
#
#   nbconfig/cluster/ssh.sh THIS_HOST node1:2 node2:4      # node1 has 2 GPUs, node2 has 4; Ctrl-C ends them all
#
# THIS_HOST is the name or address under which the nodes reach this machine. The clone with its environment, the data and
# the output folder are on a file system that all machines share, under the same paths; ssh asks for no password.
# Whoever reaches the scheduler's port can run code as you: keep it inside a trusted network (see README).
set -eu
host=$1; shift
repository=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$repository/.venv/bin/python}
port=${PORT:-8786}
cpus=${CPUS:-8}  # processors for each run

"$python" -m dask scheduler --host "$host" --port "$port" --no-dashboard & started=$!
trap 'kill $started 2>/dev/null; wait' INT TERM EXIT
for node in "$@"; do
    gpus=${node#*:}
    for gpu in $(seq 0 $((gpus - 1))); do
        # -tt: the worker ends with its connection
        ssh -tt "${node%:*}" "cd '$repository' && CUDA_VISIBLE_DEVICES=$gpu '$python' -m dask worker tcp://$host:$port \
            --nthreads 1 --resources GPU=1,CPU=$cpus --memory-limit 0 --no-dashboard" </dev/null & started="$started $!"
    done
done
echo "adlib reproduce --profile paper --data DIR --out DIR --scheduler tcp://$host:$port"
wait
