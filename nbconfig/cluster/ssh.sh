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

# ssh again whenever the connection to a node was lost, which it tells by status 255.
again() {
    trap 'kill "$ssh" 2>/dev/null; exit' INT TERM
    while :; do
        # -tt: the worker ends with its connection
        ssh -tt -o ServerAliveInterval=60 -o ServerAliveCountMax=5 "$1" "$2" </dev/null & ssh=$!
        status=0; wait "$ssh" || status=$?
        [ "$status" -eq 255 ] || return "$status"
        sleep 10
    done
}

export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m adlib.runs.cluster scheduler --host "$host" --port "$port" & started=$!
trap 'kill $started 2>/dev/null; wait' INT TERM EXIT
for node in "$@"; do
    gpus=${node#*:}
    for gpu in $(seq 0 $((gpus - 1))); do
        again "${node%:*}" "cd '$repository' && CUDA_VISIBLE_DEVICES=$gpu exec '$python' -m adlib.runs.cluster worker \
            tcp://$host:$port --resources GPU=1,CPU=$cpus" & started="$started $!"
    done
done
echo "adlib reproduce --profile paper --data DIR --out DIR --scheduler tcp://$host:$port"
wait
