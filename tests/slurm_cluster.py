"""A real SLURM cluster of one node on loopback, for the tests of all folders.

Its controller, its node and its munged have a folder, ports and a socket of their own. SLURM kills a job that takes
more memory than it asked for, by sampling, since this machine's control groups are not SLURM's.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "runuser", "sshd")

_CONF = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmUser=root
SlurmdUser=root
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
SchedulerParameters=sched_interval=2,sched_min_interval=100000,batch_sched_delay=0
KillWait=2
{more}
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=100000 State=UNKNOWN
PartitionName=main Nodes=node Default=YES State=UP
PartitionName=closed Nodes=node State=DOWN AllowGroups=daemon
"""


class SlurmCluster:
    """The running cluster. Its commands need the variables of `environment`."""

    def __init__(self, folder: Path, cpus: int, more: str) -> None:
        self.folder = folder
        self.name = "precalctest"
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._munged = folder / "munge" / "pid"
        names = {"host": socket.gethostname().partition(".")[0], "ports": _free_ports(2)}
        text = _CONF.format(name=self.name, folder=folder, cpus=cpus, more=more, **names)
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Start the daemons, and wait until the node takes jobs."""
        munge = self.folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
        subprocess.run(
            ["runuser", "-u", "munge", "--", "/usr/sbin/munged", f"--socket={munge}/socket", *files], check=True
        )
        self.start_controller()
        self.start_node()

    def start_controller(self) -> None:
        """Start the controller."""
        (self.folder / "state").mkdir(exist_ok=True)
        self.run("slurmctld")
        self._wait("scontrol", "ping", "--quiet", said="UP")

    def stop_controller(self) -> None:
        """Stop the controller; jobs go on."""
        _end(self.folder / "slurmctld.pid")

    def reset(self) -> None:
        """Make the controller forget all jobs: ids begin anew."""
        self.stop_controller()
        shutil.rmtree(self.folder / "state")
        self.start_controller()
        self._wait("sinfo", "--noheader", "--format=%t", said="idle")

    def start_node(self) -> None:
        """Start the node."""
        self.run("slurmd")
        self._wait("sinfo", "--noheader", "--format=%t", said="idle")

    def kill_node(self) -> None:
        """Kill the node, with all that runs on it."""
        node = psutil.Process(int((self.folder / "slurmd.pid").read_text()))
        running = list(psutil.process_iter(["name", "environ"]))
        here = [
            each for each in running if (each.info["environ"] or {}).get("SLURM_CONF") == self.environment["SLURM_CONF"]
        ]
        # The steps first, so that they do not report the end of their jobs.
        steps = [each for each in here if each.info["name"] == "slurmstepd"]
        jobs = [each for each in here if each.info["environ"].get("SLURM_JOB_ID")]
        for process in [node, *steps, *jobs]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._wait("sinfo", "--noheader", "--format=%t", said="down")

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        with suppress(subprocess.CalledProcessError):
            self.cancel_all()
        for name in ("slurmd.pid", "slurmctld.pid"):
            _end(self.folder / name)
        _end(self._munged)

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait for their end."""
        for signal_words in (["--full", "--signal=KILL"], []):
            with suppress(subprocess.CalledProcessError):  # a job that is ending cannot be cancelled
                self.run("scancel", "--me", *signal_words)
        self._wait("squeue", "--noheader", said="")

    def run(self, *command: str) -> str:
        """Run a command of SLURM, and return what it prints."""
        path = {"PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin"}
        return subprocess.run(
            command, env=os.environ | path | self.environment, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def _wait(self, *command: str, said: str) -> None:
        deadline = time.monotonic() + 30
        answer = "nothing"
        while time.monotonic() < deadline:
            with suppress(subprocess.CalledProcessError):
                answer = self.run(*command)
                if said in answer and (said or not answer.strip()):
                    return
            time.sleep(0.1)
        logs = "\n".join(path.read_text()[-1000:] for path in self.folder.glob("*.log"))
        raise TimeoutError(f"{command}: {answer!r}\n{logs}")


@contextmanager
def running_cluster(*, cpus: int = 8, more: str = "") -> Iterator[SlurmCluster]:
    """Run a cluster; skip the test where that is impossible."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")]
    if os.geteuid() != 0 or missing:
        packages = "slurmctld slurmd slurm-client munge openssh-server"
        pytest.skip(f"SLURM's daemons need root and the packages {packages}; missing: {missing or 'root'}")
    # Not below pytest's own folder, which the user munge may not enter.
    folder = Path(mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder, cpus, more)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_sshd(cluster: SlurmCluster, programs: Path) -> Iterator[str]:
    """Run an sshd on loopback, and yield the arguments of ssh that lead to it.

    What it starts finds programs in `programs` first, and the cluster.
    """
    folder = cluster.folder / "sshd"
    folder.mkdir(exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    [port] = _free_ports(1)
    path = f"{programs}:{os.environ['PATH']}"
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/user.pub",
        f"PidFile {folder}/pid",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        f"SetEnv SLURM_CONF={cluster.environment['SLURM_CONF']} PATH={path}",
    ]
    (folder / "conf").write_text("\n".join(lines) + "\n")
    subprocess.run(["/usr/sbin/sshd", "-f", str(folder / "conf"), "-E", str(folder / "log")], check=True)
    options = [f"IdentityFile={folder}/user", "StrictHostKeyChecking=no", f"UserKnownHostsFile={folder}/known"]
    try:
        yield shlex.join([*(word for option in options for word in ("-o", option)), "-p", str(port), "127.0.0.1"])
    finally:
        _end(folder / "pid")


def install_precalc(folder: Path, script: str = "") -> Path:
    """Make the folder's `.venv/bin/precalc` that jobs call: ours, or a script."""
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True, exist_ok=True)
    precalc = bin_folder / "precalc"
    ours = f'exec {Path(sys.executable).parent / "precalc"} "$@"\n'
    precalc.write_text(f"#!/bin/bash\n{script or ours}")
    precalc.chmod(0o755)
    return precalc


def slurm_settings(folder: Path, **more: object) -> Mapping[str, object]:
    """Return the settings of this cluster, for jobs in a folder."""
    return {"slurm_folder": str(folder), "slurm_minutes": 60, "slurm_memory": 1_000, **more}


def _end(pid_file: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError, ValueError, psutil.NoSuchProcess):
        os.kill(pid := int(pid_file.read_text()), signal.SIGTERM)
        for _ in range(100):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
