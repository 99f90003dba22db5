#!/bin/bash
# The login node: the first process of the cluster's namespaces, started by slurm.py as
#
#   unshare --net --uts --mount --pid --fork --kill-child --mount-proc bash login.sh ROOT NODE...
#
# It keeps a network of its own, Slurm's controller and the nodes, and does what it reads: "boot NODE", "crash NODE".
# When those who write to it are gone, however they went, it reads the end; with it the kernel ends all that it began.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}") root=$1
shift

address() { awk -v name="$1" '$2 == name { print $1; exit }' "$root/hosts"; }

hostname login
mount --bind "$root/hosts" /etc/hosts
ip link set lo up
ip link add name bridge type bridge
ip address add "$(address login)/24" dev bridge
ip link set bridge up

declare -A node
boot() {
  ip link delete "to-$1" 2>/dev/null || true # of a node that crashed
  unshare --net --uts --mount --pid --fork --kill-child --mount-proc \
    bash "$here/node.sh" "$1" "$(address "$1")" </dev/null >>"$root/$1.log" 2>&1 &
  node[$1]=$!
  until [[ $(readlink "/proc/$!/ns/net") != "$(readlink /proc/self/ns/net)" ]]; do sleep 0.01; done
  ip link add "to-$1" type veth peer name eth0 netns "$!"
  ip link set "to-$1" master bridge up
}

crash() { kill -KILL "${node[$1]}"; } # and with it the node's processes

slurmctld -D -c </dev/null >"$root/slurmctld.log" 2>&1 &
for name; do boot "$name"; done
while read -r command name; do "$command" "$name"; done
