#!/bin/bash
# sbatch, with the flags that site.env has for such a job; yours come after them and win.
#
#   slurm/submit.sh [sbatch's flags] slurm/TEMPLATE.sbatch ...
set -euo pipefail
if [[ ! -e slurm/site.env ]]; then
  echo "koala: there is no slurm/site.env here; submit from the folder that holds slurm/" >&2
  exit 2
fi
source slurm/site.env

case " $* " in
  *"shards.sbatch "*) flags=("${ALL_JOBS[@]}" "${CPU_JOBS[@]}") ;;
  *) flags=("${ALL_JOBS[@]}" "${GPU_JOBS[@]}") ;;
esac
exec sbatch "${flags[@]}" "$@"
