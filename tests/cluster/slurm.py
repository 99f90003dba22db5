"""A real Slurm on one machine: Debian's slurmctld and slurmd, each node in namespaces of its own.

A node has its own network, host name, processes and /dev/shm, and shares the file system; nothing outside is touched,
and nothing can leave the machine. All of it hangs below one process, which ends when this one does, even by SIGKILL.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "unshare", "nsenter", "ip")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY"}
_HERE = Path(__file__).parent
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_NAMESPACES = ("--net", "--uts", "--mount")
_GPUS = 8  # of each node: names of a device that Slurm counts and does not look into

# partition "main" drives jobs out of "low", with a warning
_CONF = """
ClusterName=test
SlurmctldHost=login(198.18.0.254)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5  # seconds; a requeued job waits for so long, too
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides  # the nodes are as large as they say
GresTypes=gpu
SlurmdTimeout=10  # seconds until a node that says nothing is down
KillWait=5  # seconds from SIGTERM to SIGKILL
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName={nodes} NodeAddr=198.18.0.[1-{count}] CPUs=96 CoresPerSocket=96 RealMemory=64000 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES PriorityTier=2 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=60
"""


def missing() -> str:
    """What keeps a cluster from being started here, in words; empty when nothing does."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"a cluster needs {', '.join(absent)}: make system, as root"
    network = "ip link add name bridge type bridge && ip link add name one type veth peer name two"
    trial = [*_unshare(), "sh", "-c", f"mount -t tmpfs tmpfs /dev/shm && {network}"]
    tried = subprocess.run(trial, env={"PATH": _PATH}, capture_output=True, text=True, check=False)
    return f"a cluster needs namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def _unshare() -> list[str]:
    """Namespaces for the cluster; those who are not root become it in there, by capabilities and not by number."""
    alike = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *alike, *_NAMESPACES, "--pid", "--fork", "--kill-child", "--mount-proc"]


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


class Slurm:
    """A running cluster.

    Args:
        root: an empty folder for all that it writes.
        nodes: how many; they are called n1, n2 and so on.
    """

    def __init__(self, root: Path, nodes: int = 2) -> None:
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._root = root
        self._write_configuration()
        # a test run may itself be a job, or a launcher's process
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        self._environment = {**clean, "PATH": _PATH, "SLURM_CONF": str(root / "slurm.conf")}
        with (root / "login.log").open("w") as log:
            self._login = subprocess.Popen(
                [*_unshare(), "bash", str(_HERE / "login.sh"), str(root), *self.nodes],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest
                text=True,
            )
        until(lambda: self._idle() == len(self.nodes), "the nodes to come up", self._logs)

    def _write_configuration(self) -> None:
        count = len(self.nodes)
        names = f"n[1-{count}]"
        conf = _CONF.format(root=self._root, user=_user(), nodes=names, count=count, gpus=_GPUS)
        (self._root / "slurm.conf").write_text(conf)
        for number in range(_GPUS):
            (self._root / f"gpu{number}").symlink_to("/dev/null")
        (self._root / "gres.conf").write_text(f"NodeName={names} Name=gpu File={self._root}/gpu[0-{_GPUS - 1}]\n")
        (self._root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        addresses = {"login": "198.18.0.254", **{name: f"198.18.0.{name[1:]}" for name in self.nodes}}
        # gloo looks the callers' names up, by addresses of this kind
        lines = [f"{prefix}{address} {name}\n" for name, address in addresses.items() for prefix in ("", "::ffff:")]
        (self._root / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))

    def _idle(self) -> int:
        if self._login.poll() is not None:
            raise RuntimeError(f"the cluster did not start:\n{self._logs()}")
        if self._first_process() is None:
            return 0
        with contextlib.suppress(CommandError):  # there is no controller yet
            return len(self.run("sinfo", "--noheader", "--Node", "--states=idle", "--partition=main", "-o%N").split())
        return 0

    def _logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in self._root.glob("*.log"))

    def _first_process(self) -> str | None:
        """The number, out here, of the process in which login.sh runs."""
        children = Path(f"/proc/{self._login.pid}/task/{self._login.pid}/children").read_text().split()
        return children[0] if children else None

    def close(self) -> None:
        """End the cluster, and with it all jobs."""
        self._login.stdin.close()
        self._login.wait(timeout=20)

    def tell(self, order: str) -> None:
        """Have login.sh do something."""
        self._login.stdin.write(order + "\n")
        self._login.stdin.flush()

    # ------------------------------------------------------------ what users do

    def run(self, *words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command on the login node, and give what it printed.

        Raises:
            CommandError: its exit code is not 0.
        """
        alike = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        enter = ("nsenter", "--target", self._first_process(), *alike, *_NAMESPACES, f"--wd={cwd or Path.cwd()}", "--")
        done = subprocess.run(
            [*enter, *map(str, words)],
            env={**self._environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise CommandError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, *words: str | Path, program: str = "sbatch", **options) -> str:
        """Submit a job with sbatch's words, and give its number."""
        return self.run(program, "--parsable", *words, **options).strip()

    def show(self, job: str) -> list[dict[str, str]]:
        """What Slurm knows of a job, or of each job of an array."""
        lines = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def ended(self, job: str) -> dict[str, str]:
        """Wait for a job's end, and give what Slurm knows of it; of an array's jobs, that of the last."""
        until(
            lambda: {entry["JobState"] for entry in self.show(job)} <= ENDED,
            f"job {job} to end",
            lambda: f"{self.show(job)}\n{self._logs()}",
            timeout_s=300,
        )
        return self.show(job)[-1]

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until they are gone."""
        self.run("scancel", "--user", _user())
        until(lambda: not self.run("squeue", "--noheader"), "the queue to be empty", self._logs)

    def processes(self, job: str, **variables: str) -> list[int]:
        """A job's processes on all nodes, of those that have these environment variables."""
        wanted = {f"{name}={value}".encode() for name, value in {"SLURM_JOB_ID": job, **variables}.items()}
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended
                if wanted <= set(path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
        return found


class CommandError(Exception):
    """A command's exit code was not 0."""


def until(true: Callable[[], object], what: str, state: Callable[[], str], timeout_s: float = 30) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it took too long; with the state of things.
    """
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s} s for {what}:\n{state()}")
        time.sleep(0.1)
