#!/bin/bash
# What the templates share. Each sources it, which reads site.env and takes out of the environment what would mislead
# koala; then it starts koala with `launch` on all nodes and GPUs of the job, or with `run_once`.
# shellcheck disable=SC2034 # those who source it use them

# Slurm's warning that the job is to end goes to the batch script alone (--signal=B:USR1@180), which passes it on. Nothing
# else is trapped: of two signals that come together, as they do when a job must make room, bash loses one.
warned=0 step=
trap 'warned=1; [[ -z $step ]] || kill -USR1 "$step"' USR1

say() { echo "$(date '+%F %T') $*"; }

refuse() {
  echo "koala: $*" >&2
  exit 2
}

[[ ${SLURM_JOB_ID:-} ]] || refuse "this is for Slurm's nodes; submit it with sbatch or slurm/submit.sh"
cd "$SLURM_SUBMIT_DIR"
source slurm/site.env || refuse "there is no slurm/site.env in $SLURM_SUBMIT_DIR; submit from the folder that holds slurm/"
prepare # before the line below, which modules' commands do not bear
set -euo pipefail

[[ ${SLURM_NTASKS_PER_NODE:-1} == 1 ]] ||
  refuse "koala starts the processes of a node itself; leave out --ntasks-per-node=$SLURM_NTASKS_PER_NODE"
[[ -x $KOALA_ENV/bin/python || ${CONTAINER[*]}${SRUN_FLAGS[*]} ]] ||
  refuse "$KOALA_ENV holds no bin/python; set KOALA_ENV in slurm/site.env to the environment that koala is installed in"

unset SLURM_EXPORT_ENV # of sbatch --export=NONE: srun would pass nothing on, not even PATH
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT # of the shell that submitted
unset "${!TORCHELASTIC_@}" "${!ACCELERATE_@}" "${!PET_@}"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch since 22.05
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds for koala to save; torch's launcher would kill it after 30
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NCCL_DEBUG=${NCCL_DEBUG:-WARN} PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1

part=() # of the work, in an array's jobs
if [[ ${SLURM_ARRAY_TASK_COUNT:-} ]]; then
  [[ $SLURM_ARRAY_TASK_MIN == 1 && $SLURM_ARRAY_TASK_MAX == "$SLURM_ARRAY_TASK_COUNT" ]] ||
    refuse "the array must be whole, as in --array=1-8; parts that are done already are passed over"
  part=(--part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
fi
restarts=${SLURM_RESTART_COUNT:-0}
per_node=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
processes=$((SLURM_NNODES * per_node))
python=("${CONTAINER[@]}" "$KOALA_ENV/bin/python")
near_gpu=() # torch looks for the GPUs, and would fail on a node without
[[ ! -e /proc/driver/nvidia/version ]] || near_gpu=(${NUMA_BINDING:+"--numa-binding=$NUMA_BINDING"})

# launch WORD...: koala WORD... on all nodes, a process for each GPU; gives the step's exit code. `step_flags` are srun's.
# It is torch's launcher, which accelerate's starts, too, but not without reading a configuration in the home folder.
step_flags=()
launch() {
  local head port code=0
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  port=$((20000 + (SLURM_JOB_ID + 1009 * restarts) % 12000)) # another for each job; clients are given 32768 and above
  # Each node has a SLURM_NODEID of its own: in single quotes it is looked up there. torch's launcher would die of USR1; it
  # ignores it, and so does what it starts, until koala listens. Without "--" it would take koala's --run for its own.
  # shellcheck disable=SC2016
  srun --ntasks-per-node=1 --kill-on-bad-exit=1 "${step_flags[@]}" "${SRUN_FLAGS[@]}" \
    bash -c 'trap "" USR1; PET_NODE_RANK=$SLURM_NODEID exec "$@"' launch \
    "${python[@]}" -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc-per-node="$per_node" "${near_gpu[@]}" \
    --master-addr="$head" --master-port="$port" --rdzv-id="$SLURM_JOB_ID.$restarts" -m -- koala "$@" &
  step=$!
  # a signal ends `wait` before the step has ended; of what has ended bash remembers the exit code
  while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
  wait "$step" || code=$?
  step=
  return "$code"
}

# run_once WORD...: python WORD... in one process on the first node
run_once() { srun --nodes=1 --ntasks=1 "${SRUN_FLAGS[@]}" "${python[@]}" "$@"; }

# record FOLDER WORD...: what the job runs, and where, for those who ask later
record() {
  local folder=$1 word code
  shift
  mkdir -p "$folder"
  cp "$0" "$folder/job.sbatch"
  cp slurm/site.env slurm/launch.sh "$folder"
  printf '%q ' "$@" >"$folder/arguments.txt"
  for word; do [[ $word != *.toml ]] || cp "$word" "$folder"; done
  scontrol show hostnames "$SLURM_JOB_NODELIST" >"$folder/nodes.txt"
  env | grep '^SLURM_' | sort >"$folder/slurm.txt"
  run_once -c 'import importlib.metadata as m, koala, os, sys
print(f"python {sys.version}\nkoala {koala.__version__} in {os.path.dirname(koala.__file__)}")
print(*sorted(f"{d.name}=={d.version}" for d in m.distributions()), sep="\n")' >"$folder/versions.txt" || return
  code=$(sed -n 's/^koala .* in //p' "$folder/versions.txt")
  if git -C "$code" ls-files --error-unmatch __init__.py &>/dev/null; then # it runs from a checkout
    git -C "$code" log -1 --format='%H %cI %s' >"$folder/commit.txt"
    git -C "$code" status --short >>"$folder/commit.txt"
    git -C "$code" diff HEAD >"$folder/changes.diff"
  fi
}
