"""What SLURM's commands are asked, and what their answers mean. A stand-in of the commands answers."""

import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from fake_slurm import FakeSlurm
from obstore.store import MemoryStore

from precalc_assets.executions.compute_backend import (
    BackendError,
    NotNowError,
    RefusedError,
    UnansweredError,
)
from precalc_assets.executions.records import OUT_OF_MEMORY, Intent, Run
from precalc_assets.executions.slurm import SlurmBackend, open_slurm
from precalc_assets.settings import Settings

NOW = datetime.now(UTC)
INTENT = Intent(
    key="eos9abc-0001", model="eos9abc", compute="slurm", library_digest="d", shards=("00", "03"), created_at=NOW
)
RUN = Run(run_id=1001, url="slurm://fake/1001")
SETTINGS = Settings(
    _env_file=None,
    n_shards=4,
    slurm_folder="jobs",
    slurm_partition="cpu",
    slurm_account="lab",
    slurm_qos="low",
    slurm_minutes=90,
    slurm_memory=700,
    slurm_options='--gres=gpu:1 --constraint "a b"',
    machines=7,
)


@pytest.fixture
def fake() -> FakeSlurm:
    return FakeSlurm()


@pytest.fixture
def backend(fake: FakeSlurm) -> SlurmBackend:
    return SlurmBackend(SETTINGS, MemoryStore(), fake.run)


def answering(code: int, said: str, *, ssh: str = "", command: str = "sbatch") -> SlurmBackend:
    """Return a backend whose command ends like this; the others are the stand-in's."""
    fake = FakeSlurm()

    def run(words: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
        if command not in words:
            return fake.run(words, given)
        return subprocess.CompletedProcess(words, code, "", said)

    return SlurmBackend(SETTINGS.model_copy(update={"slurm_ssh": ssh}), MemoryStore(), run)


def test_launch_submits_three_jobs_with_all_settings(backend: SlurmBackend, fake: FakeSlurm) -> None:
    assert backend.launch(INTENT) == RUN
    plan, predict, load = (words for words in fake.commands if words[0] == "sbatch")
    for words in (plan, predict, load):
        for option in ("--partition=cpu", "--account=lab", "--qos=low", "--mem=700M", "--time=90", "--chdir=jobs"):
            assert option in words
        assert words[words.index("--gres=gpu:1") :][:3] == ["--gres=gpu:1", "--constraint", "a b"]
    assert {"--array=0,3%7", "--dependency=afterok:1001", "--kill-on-invalid-dep=yes"} <= {*predict}
    assert "--dependency=afterok:1001,afterany:101001" in load


def test_jobs_call_precalc_jobs_and_nothing_else(backend: SlurmBackend, fake: FakeSlurm) -> None:
    backend.launch(INTENT)
    plan, predict, load = (script.splitlines()[2:] for script in fake.scripts)
    assert plan == ["precalc jobs plan eos9abc --key eos9abc-0001 && exec precalc jobs canary eos9abc-0001"]
    assert predict == ['exec precalc jobs predict eos9abc-0001 --shards "$SLURM_ARRAY_TASK_ID" --until 70m']
    assert load[0] == "precalc jobs load eos9abc-0001 --shards 00,03"
    assert load[2] == "precalc jobs report eos9abc-0001 && exit $loaded"
    runs = ['PRECALC_RUN_ID=$SLURM_JOB_ID PRECALC_RUN_URL="slurm://fake/$SLURM_JOB_ID"']
    runs += ['PRECALC_RUN_ID=1001 PRECALC_RUN_URL="slurm://fake/1001"'] * 2
    assert [script.splitlines()[1].partition(':$PATH" ')[2] for script in fake.scripts] == runs


def test_sample_is_one_job(backend: SlurmBackend, fake: FakeSlurm) -> None:
    backend.launch(INTENT.model_copy(update={"shards": (), "sample": 5}))
    assert [words[0] for words in fake.commands].count("sbatch") == 1


@pytest.mark.parametrize(("failures", "megabytes"), [(0, 700), (1, 1400), (2, 2800)])
def test_each_lack_of_memory_doubles_what_is_asked(
    failures: int, megabytes: int, backend: SlurmBackend, fake: FakeSlurm
) -> None:
    reasons = {"00": (*[f"{OUT_OF_MEMORY}: killed"] * failures, "another reason"), "03": ("another reason",)}
    backend.launch(INTENT.model_copy(update={"reasons": reasons}))
    asked = {word for words in fake.commands for word in words if word.startswith("--mem=")}
    assert asked == {f"--mem={megabytes}M"}


REFUSED = {
    "partition": (1, "sbatch: error: Batch job submission failed: Invalid partition name specified"),
    "account": (1, "sbatch: error: Batch job submission failed: Invalid account or account/partition combination"),
    "memory": (1, "sbatch: error: Memory specification can not be satisfied"),
    "limit": (1, "sbatch: error: AssocMaxWallDurationPerJobLimit\nsbatch: error: Job violates accounting/QOS policy"),
    "option": (255, "sbatch: unrecognized option '--nonsense'\nTry \"sbatch --help\" for more information"),
    "no sbatch": (127, "env: 'sbatch': No such file or directory"),
    "login": (255, "me@login: Permission denied (publickey)."),
    "host key": (255, "Host key verification failed."),
}
LATER = {
    "controller": (
        1,
        "sbatch: error: Unable to contact slurm controller (connect failure)",
    ),
    "queue": (
        1,
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Job violates accounting/QOS policy",
    ),
    "no host": (255, "ssh: Could not resolve hostname login: Name or service not known"),
    "no connection": (255, "ssh: connect to host login port 22: Connection refused"),
    "no sshd": (255, "kex_exchange_identification: Connection closed by remote host"),
}
UNKNOWN = {
    "socket": (1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
    "dropped": (255, "Connection to login closed by remote host."),
    "broken": (255, "client_loop: send disconnect: Broken pipe"),
    "silent": (255, ""),
}
MEANINGS = [
    pytest.param(kind, code, said, id=f"{kind.__name__} {name}")
    for kind, faults in {RefusedError: REFUSED, NotNowError: LATER, UnansweredError: UNKNOWN}.items()
    for name, (code, said) in faults.items()
]


@pytest.mark.parametrize(("kind", "code", "said"), MEANINGS)
def test_failed_submission_means(kind: type[BackendError], code: int, said: str) -> None:
    with pytest.raises(BackendError) as error:
        answering(code, said, ssh="me@login").launch(INTENT)
    assert type(error.value) is kind
    assert str(error.value).startswith(("sbatch: ", "there is no command sbatch there; set PRECALC_SLURM_SSH"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", UnansweredError),
        (b"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.", NotNowError),
    ],
)
def test_submission_without_an_answer_in_time(said: bytes, kind: type[BackendError], fake: FakeSlurm) -> None:
    def run(words: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
        if "sbatch" in words:
            raise subprocess.TimeoutExpired(words, 12, stderr=said)
        return fake.run(words, given)

    with pytest.raises(kind):
        SlurmBackend(SETTINGS, MemoryStore(), run).launch(INTENT)


@pytest.mark.parametrize("fault", ["422", "429"])
def test_refused_array_cancels_the_job_before_it(fault: str, backend: SlurmBackend, fake: FakeSlurm) -> None:
    from simulation import MEANINGS as FAULTS

    fake.faults["submit_shards"].append(FAULTS[fault][0])
    with pytest.raises((RefusedError, NotNowError)):
        backend.launch(INTENT)
    assert [run.conclusion for run in fake.runs.values()] == ["cancelled"]


def test_run_of_another_cluster_is_refused(backend: SlurmBackend) -> None:
    elsewhere = Run(run_id=1001, url="slurm://other/1001")
    for ask in (backend.status, backend.cancel):
        with pytest.raises(RefusedError, match="slurm://other/1001 is not a run of fake"):
            ask(INTENT, elsewhere)


def lines(*tasks: str, ago: timedelta = timedelta()) -> str:
    """Return squeue's lines: `id|name|state`, submitted now or earlier."""
    submitted = int((NOW - ago).timestamp())
    return "\n".join(f"{task}|{submitted}|{submitted}|{submitted + 5}" for task in tasks)


PLAN, FIRST, SECOND, LOAD = (
    "1001|eos9abc-0001.plan|COMPLETED",
    "7_0|eos9abc-0001.1001.predict|{}",
    "7_3|eos9abc-0001.1001.predict|{}",
    "8|eos9abc-0001.1001.load|{}",
)


@pytest.fixture
def listing() -> Callable[..., SlurmBackend]:
    """A function that makes a backend over lists: of squeue, and of sacct if the cluster keeps accounts."""

    def make(shown: str, kept: str | None = None, found: str = "") -> SlurmBackend:
        fake = FakeSlurm()
        fake.accounts = None if kept is None else kept.splitlines()
        fake.logs = dict.fromkeys(found.split(), "error: Exceeded job memory limit")

        def run(words: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.CompletedProcess(words, 0, shown, "") if "squeue" in words else fake.run(words, given)

        return SlurmBackend(SETTINGS, MemoryStore(), run)

    return make


@pytest.mark.parametrize(
    ("states", "conclusion"),
    [
        (("COMPLETED", "COMPLETED", "COMPLETED"), "success"),
        (("COMPLETED", "RUNNING", "PENDING"), None),
        (("COMPLETED", "REQUEUED", "PENDING"), None),
        (("CANCELLED", "TIMEOUT", "COMPLETED"), "timeout"),
        (("CANCELLED", "COMPLETED", "COMPLETED"), "cancelled"),
        (("NODE_FAIL", "COMPLETED", "COMPLETED"), "node fail"),
        (("OUT_OF_MEMORY", "COMPLETED", "COMPLETED"), OUT_OF_MEMORY),
    ],
)
def test_states_of_jobs_become_a_conclusion(
    states: tuple[str, str, str], conclusion: str | None, listing: Callable[..., SlurmBackend]
) -> None:
    tasks = (task.format(state) for task, state in zip((FIRST, SECOND, LOAD), states, strict=True))
    status = listing(lines(PLAN, *tasks)).status(INTENT, RUN)
    assert status is not None
    assert status.conclusion == conclusion


@pytest.mark.parametrize(
    ("state", "why", "shown"),
    [
        ("PENDING", "PartitionTimeLimit", "pending (PartitionTimeLimit)"),
        ("PENDING", "None", "pending"),
        ("RUNNING", "None", "running"),
        ("FAILED", "NonZeroExitCode", "failed"),
    ],
)
def test_a_waiting_job_says_why(state: str, why: str, shown: str, listing: Callable[..., SlurmBackend]) -> None:
    status = listing(f"{lines(LOAD.format(state))}|{why}").status(INTENT, RUN)
    assert status is not None
    assert [job.status for job in status.jobs] == [shown]


def test_forgotten_jobs_are_taken_from_the_accounts(listing: Callable[..., SlurmBackend]) -> None:
    kept = lines(PLAN, FIRST.format("CANCELLED by 1000"), SECOND.format("RUNNING"), "7_[4-9]|x|PENDING")
    status = listing(lines(SECOND.format("COMPLETED"), LOAD.format("COMPLETED")), kept).status(INTENT, RUN)
    assert status is not None
    assert [(job.shards, job.status) for job in status.jobs] == [
        ((), "success"),
        (("00",), "cancelled"),
        (("03",), "success"),
        ((), "success"),
    ]


def test_run_that_slurm_has_forgotten_is_gone(listing: Callable[..., SlurmBackend]) -> None:
    assert listing("").status(INTENT, RUN) is None


def test_job_with_the_same_id_or_name_of_another_time_is_not_ours(listing: Callable[..., SlurmBackend]) -> None:
    same_name = lines("9|eos9abc-0001.plan|RUNNING")
    before = lines(PLAN, ago=timedelta(hours=1))
    assert listing(f"{same_name}\n{before}").status(INTENT, RUN) is None
    assert listing(before).look_up(INTENT) is None


def test_log_tells_that_a_job_lacked_memory(listing: Callable[..., SlurmBackend]) -> None:
    """Where SLURM enforces memory without control groups, such a job counts as failed, or is forgotten."""
    logs = "eos9abc-0001.1001.predict-7_0.log eos9abc-0001.1001.predict-7_3.log"
    shown = lines(PLAN, FIRST.format("FAILED"), LOAD.format("COMPLETED"))
    status = listing(shown, found=logs).status(INTENT, RUN)
    assert status is not None
    assert {job.shards: job.status for job in status.jobs if job.shards} == {
        ("00",): OUT_OF_MEMORY,
        ("03",): OUT_OF_MEMORY,
    }


@pytest.mark.parametrize("shown", ["1|eos9abc-0001.plan|RUNNING|soon|N/A|N/A", "1|eos9abc-0001.plan|RUNNING||N/A|N/A"])
def test_time_that_cannot_be_read_is_no_answer(shown: str, listing: Callable[..., SlurmBackend]) -> None:
    with pytest.raises(UnansweredError, match="cannot be read"):
        listing(shown).look_up(INTENT)


def test_missing_command_on_this_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CONF", "/nonexistent")
    backend = open_slurm(SETTINGS.model_copy(update={"slurm_folder": "/tmp"}), MemoryStore())
    with pytest.raises(RefusedError, match="there is no command nosuch on this machine; set PRECALC_SLURM_SSH"):
        backend._ask("nosuch")


def test_words_reach_the_cluster_unchanged_through_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh joins its words and gives them to a shell, which must take them apart again."""
    sent: list[list[str]] = []

    def run(line: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        sent.append(line)
        return subprocess.run(["sh", "-c", line[-1]], **{**options, "check": False})

    monkeypatch.setattr("precalc_assets.executions.slurm.subprocess", _Subprocess(run))
    settings = SETTINGS.model_copy(update={"slurm_ssh": '-J gate -o "ProxyCommand nc %h" me@login'})
    said = open_slurm(settings, MemoryStore())._ask("printf", "%s\n", "a b", "$HOME", "'q'", "%A_%a;x", given="")
    assert said.splitlines() == ["a b", "$HOME", "'q'", "%A_%a;x"]
    assert sent[0][:-1][-5:] == ["-J", "gate", "-o", "ProxyCommand nc %h", "me@login"]


class _Subprocess:
    """The module subprocess with another `run`."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, run: Callable[..., object]) -> None:
        self.run = run
