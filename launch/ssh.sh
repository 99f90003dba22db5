#!/bin/bash
# Train on several machines that ssh reaches, without a scheduler. Run it again to resume.
#
#   GPUS=8 launch/ssh.sh HOST... -- launch/imagenet-full.toml --run runs/full [koala train's flags]
#
# Run it in the folder of the training, in a file system that all machines see by the same path. The first HOST is the meeting
# place: the others must reach its port PORT (29400). ssh must ask for no password, and koala must be in the environment of the
# PYTHON that is named (by default the one that is found here). Ctrl-C or SIGTERM make koala save on all machines. The exit code
# is koala's: 0, complete; 2, the command cannot run as given; 128 + n, stopped by signal n.
set -euo pipefail

hosts=()
while (($#)) && [[ $1 != -- ]]; do hosts+=("$1") && shift; done
(($# > 1 && ${#hosts[@]})) || { echo "usage: [GPUS=N] launch/ssh.sh HOST... -- RUN.toml --run DIR [flags]" >&2 && exit 2; }
shift
: "${GPUS:=8}" "${PORT:=29400}" "${PYTHON:=$(command -v python)}"
pids=$(mktemp -d "$PWD/.launch-XXXXXX") # each machine writes down which process a signal is for
trap 'rm -rf "$pids"' EXIT

# on_host NUMBER: train there; `exec` lets the launcher have the number that is written down
on_host() {
  local words
  words=$(printf '%q ' "$PYTHON" -m koala.core.launcher --nnodes=${#hosts[@]} --node-rank="$1" --nproc-per-node="$GPUS" \
    --master-addr="${hosts[0]}" --master-port="$PORT" -m -- koala train "${@:2}" --processes $((${#hosts[@]} * GPUS)))
  ssh -n "${hosts[$1]}" "cd $(printf %q "$PWD") && echo \$\$ >$(printf %q "$pids/$1") && \
    export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 && exec $words"
}

# pass SIGNAL: send it to the launchers of all machines
# shellcheck disable=SC2317 # a trap calls it
pass() {
  local number
  for number in "${!hosts[@]}"; do
    [[ ! -s $pids/$number ]] || ssh -n "${hosts[$number]}" "kill -$1 $(<"$pids/$number")" || true
  done
}

sessions=()
for number in "${!hosts[@]}"; do
  (trap '' INT TERM && on_host "$number" "$@") &
  sessions+=($!)
done
trap 'pass TERM' INT TERM
code=0
for session in "${sessions[@]}"; do
  ended=0
  while kill -0 "$session" 2>/dev/null; do wait "$session" || true; done # a signal ends `wait` before its time
  wait "$session" || ended=$?
  ((code)) || code=$ended
done
exit "$code"
