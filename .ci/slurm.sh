#!/usr/bin/env bash
# Starts a real Slurm of one node on this machine, for the tests of the Slurm executor: munge, slurmctld and slurmd from
# Debian. 'stop' ends the daemons that it started. Does nothing where a Slurm answers already.
set -euo pipefail
if [[ ${1:-start} == stop ]]; then
  for pid in /run/slurmd.pid /run/slurmctld.pid /run/munge/munged.pid; do
    if [[ -s $pid ]]; then kill "$(cat "$pid")" 2>/dev/null || true; fi
  done
  exit 0
fi
if command -v sinfo >/dev/null && sinfo --noheader >/dev/null 2>&1; then exit 0; fi
if ! command -v slurmctld >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
fi
install -d -o munge -g munge /run/munge
install -d /etc/slurm /var/spool/slurm-ci/controller /var/spool/slurm-ci/node
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=ci
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurm-ci/controller
SlurmdSpoolDir=/var/spool/slurm-ci/node
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname=$(hostname) CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
# Each daemon needs the one before it to answer, and its own predecessor, if just stopped, to have gone.
start() {
  for _ in $(seq 20); do
    if pgrep -x "$1" >/dev/null || "${@:2}"; then return; fi
    sleep 1
  done
  echo "$1 does not start." >&2
  exit 1
}
start munged runuser -u munge -- /usr/sbin/munged --force
for _ in $(seq 20); do if munge --no-input >/dev/null 2>&1; then break; fi; sleep 0.5; done
start slurmctld slurmctld
start slurmd slurmd -N localhost
for _ in $(seq 30); do
  if sinfo --noheader --format %t 2>/dev/null | grep -qE '^(idle|mix|alloc)$'; then exit 0; fi
  sleep 1
done
echo "Slurm did not come up; 'slurmctld -D' and 'slurmd -D' say why." >&2
exit 1
