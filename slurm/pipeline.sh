#!/bin/bash
# From images to scores, in jobs that wait for each other: write the shards in parts, finish and verify them, keep the
# embeddings (if asked to), train, evaluate. When one fails or is cancelled, those after it are cancelled.
#
#   slurm/pipeline.sh [--name NAME] [--nodes N] [--parts N] [--embed] RECIPE.toml SOURCE SHARDS RUN.toml [koala train's flags]
#
# NAME is the run's (RUNS/NAME) and begins the names of all jobs; training takes N nodes, writing N parts. With --embed the
# extractor and the geometry must be set in RUN.toml. It prints the jobs' numbers.
set -euo pipefail

name=koala nodes=1 parts=4 embed=0
while (($#)); do
  case $1 in
    --name) name=$2 && shift 2 ;;
    --nodes) nodes=$2 && shift 2 ;;
    --parts) parts=$2 && shift 2 ;;
    --embed) embed=1 && shift ;;
    *) break ;;
  esac
done
if (($# < 4)) || [[ $1 == -* ]]; then
  sed -n '2,/^set/s/^# \?//p' "$0" >&2
  exit 2
fi
recipe=$1 source=$2 shards=$3 run=$4
shift 4
source slurm/site.env

# stage NAME WORD...: submit a job that waits for the one before
wait_for=()
stage() {
  local job
  job=$(slurm/submit.sh --parsable --job-name="$1" "${wait_for[@]}" "${@:2}")
  job=${job%;*} # where there are several clusters: JOB;CLUSTER
  wait_for=(--dependency="afterok:$job,singleton" --kill-on-invalid-dep=yes)
  echo "$job $1"
}

stage "$name-write" --array="1-$parts" --output=%x-%A_%a.out slurm/shards.sbatch write "$recipe" --source "$source" --out "$shards"
stage "$name-finish" slurm/shards.sbatch finish "$shards"
stage "$name-verify" slurm/shards.sbatch verify "$shards"
if ((embed)); then
  stage "$name-embed" --nodes="$nodes" slurm/embed.sbatch "$shards" --training "$run"
  set -- --extractor.cache "$@"
fi
stage "$name" --nodes="$nodes" slurm/train.sbatch "$run" --data.shards "$shards" "$@"
stage "$name-evaluate" slurm/evaluate.sbatch "$RUNS/$name" --shards "$shards"
