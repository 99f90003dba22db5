#!/bin/bash
# A node: the first process of its namespaces, started by login.sh as node.sh NAME ADDRESS
set -euo pipefail
hostname "$1"
mount -t tmpfs tmpfs /dev/shm
until ip link set eth0 up 2>/dev/null; do sleep 0.01; done # the other end of the cable is login.sh's
ip address add "$2/24" dev eth0
ip link set lo up
slurmd -D -N "$1" &
wait # and collect what jobs leave behind
