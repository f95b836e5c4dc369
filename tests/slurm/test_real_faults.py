"""What a real cluster refuses, puts off or loses, and what a real ssh does to a submission."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, running_cluster, running_sshd
from slurm_site import MODEL, SHARDS, Site

from precalc_assets.executions.compute_backend import NotNowError, RefusedError
from precalc_assets.executions.records import Intent, open_execution

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def intent(site: Site) -> Intent:
    opened = open_execution(site.world.store, MODEL, "d", SHARDS, compute="slurm")
    assert opened is not None
    return opened.intent


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"slurm_partition": "nosuch"}, "sbatch: Batch job submission failed: Invalid partition name specified"),
        ({"slurm_memory": 10_000_000}, "Requested node configuration is not available"),
        ({"slurm_options": "--nosuch"}, "unrecognized option '--nosuch'"),
        ({"slurm_options": "--gres=gpu:1"}, "Invalid generic resource"),
    ],
)
def test_refused_settings_fail_each_shard_with_slurms_words(settings: dict[str, object], why: str, site: Site) -> None:
    [outcome, *_] = site.follow(**settings).values()
    assert outcome.failure
    with pytest.raises(RefusedError, match=why):
        site.backend(**settings).launch(intent(site))
    assert len(site.executions()) == 2, "what is refused is not tried again"
    assert not site.squeue("%i")


def test_a_waiting_job_says_why(site: Site) -> None:
    backend, held = site.backend(slurm_options="--hold"), intent(site)
    status = backend.status(held, backend.launch(held))
    assert status.jobs[0].status == "pending (JobHeldUser)"


def test_full_queue_is_waited_for(tried_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue takes the first job of a launch, and not its array."""
    with running_cluster(more="MaxJobCount=7\nMinJobAge=2") as small:
        monkeypatch.setenv("SLURM_CONF", small.environment["SLURM_CONF"])
        held = [small.run("sbatch", "--parsable", "--hold", "--wrap=true").strip() for _ in range(4)]
        follower = tried_site.follower()
        tried_site.wait_for(lambda: any("temporarily unable to accept job" in line for line in tried_site.said))
        assert tried_site.executions()[0].claim.read() is None
        small.run("scancel", *held)
        assert all(outcome.facts["attempt"] == 1 for outcome in follower.end().values())


def test_controller_that_is_down_is_waited_for(tried_site: Site, go_on: Path) -> None:
    follower = tried_site.follower()
    tried_site.wait_for(lambda: tried_site.processes("--shards", "0"))
    tried_site.cluster.stop_controller()
    with pytest.raises(NotNowError):
        tried_site.backend().launch(tried_site.executions()[0].intent)
    go_on.touch()
    tried_site.wait_for(lambda: any("contact slurm controller" in line for line in tried_site.said))
    tried_site.cluster.start_controller()
    assert all(outcome.facts["attempt"] == 1 for outcome in follower.end().values())


def test_check_finds_what_is_wrong(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line.partition(":")[0] for line in site.backend().check()] == ["cluster", "folder", "options"]
    with pytest.raises(RefusedError, match="nosuch"):
        list(site.backend(slurm_folder=str(tmp_path / "nosuch")).check())
    with pytest.raises(RefusedError, match="Invalid partition"):
        list(site.backend(slurm_partition="nosuch").check())
    monkeypatch.setenv("PRECALC_STORE_URL", f"file://{tmp_path}/other")
    with pytest.raises(RefusedError, match=r"PRECALC_STORE_URL here is file://.*/other, which is not Dagster's store"):
        list(site.backend().check())
    assert not site.squeue("%i", "--states=all", f"--name={MODEL}")


@pytest.fixture
def ssh(cluster: SlurmCluster, tmp_path: Path) -> Iterator[str]:
    """Arguments of ssh that lead to this machine, whose shell finds programs in `programs` first."""
    (tmp_path / "programs").mkdir()
    with running_sshd(cluster, tmp_path / "programs") as arguments:
        yield arguments


def write_settings(site: Site) -> None:
    """Give the jobs their settings: through ssh they get no variables of ours."""
    ours = {name: value for name, value in site.world.environment.items() if name.startswith("PRECALC_")}
    (site.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in ours.items()))


def test_shards_are_computed_through_ssh(tried_site: Site, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF")
    write_settings(tried_site)
    assert len(list(tried_site.backend(slurm_ssh=ssh).check())) == 3
    outcomes = tried_site.follow(slurm_ssh=ssh)
    assert all(outcome.landed for outcome in outcomes.values()), tried_site.said


def test_ssh_that_drops_after_a_submission_starts_nothing_twice(tried_site: Site, ssh: str, tmp_path: Path) -> None:
    """The first `sbatch` is carried out, and its answer is lost with the connection."""
    sbatch = tmp_path / "programs" / "sbatch"
    sbatch.write_text(
        f'#!/bin/bash\n/usr/bin/sbatch "$@" > {tmp_path}/said\n'
        f"[ -e {tmp_path}/dropped ] && exec cat {tmp_path}/said\n"
        f"touch {tmp_path}/dropped\nkill -9 $PPID\nsleep 5\n"
    )
    sbatch.chmod(0o755)
    write_settings(tried_site)
    outcomes = tried_site.follow(slurm_ssh=ssh)
    assert all(outcome.landed for outcome in outcomes.values()), tried_site.said
    assert (tmp_path / "dropped").exists()
    first = tried_site.executions()[0]
    assert first.answer(0).read().not_before is None
    assert first.dispatch(1).read() is None, "the submission was found by its name"


def test_unreachable_host_has_submitted_nothing(site: Site) -> None:
    with pytest.raises(NotNowError, match="Connection refused"):
        site.backend(slurm_ssh="-p 9 127.0.0.1").launch(intent(site))


def test_login_that_is_refused_names_the_setting(site: Site, ssh: str) -> None:
    without_key = ssh.replace("IdentityFile=", "IdentityFile=/nonexistent")
    with pytest.raises(RefusedError, match="must work without a password"):
        site.backend(slurm_ssh=without_key).launch(intent(site))
