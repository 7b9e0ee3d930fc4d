"""A machine that fails: power cut, full disk, folder that cannot be written to, too little memory."""

import os
import random
import resource
import shutil
import subprocess
import time

import psutil
import pytest

from tests.reliability.disturbed import (
    STAGES,
    check_clean,
    check_quiet,
    differing,
    mend_lock,
    processes,
    results,
    stage_below,
    wait,
)
from tests.reliability.faults import record

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1500)]
MOUNTS = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")
LAST_WRITES_S = 2.0
ROOM = 1 << 16


def completed(project, reference):
    """What the next commands make of a project after a fault; whether it is what nobody disturbed."""
    mend_lock(project)
    project.repro()
    assert not differing(project, reference)
    return results(project) == reference


def cut_short(project, since):
    """Halve every file that was written since then, as a power cut may; databases write through and keep their own."""
    cut = []
    for top in ("data", "reports", ".dvc/cache/files", "dvc.lock"):
        place = project.folder / top
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since and path.stat().st_size:
                path.chmod(0o644)
                os.truncate(path, path.stat().st_size // 2)
                cut.append(path)
    return cut


def test_power_cut_in_the_middle_of_stages_loses_no_result(undisturbed, copy_of_undisturbed):
    """One project whose stages are run by force and cut off, processes first, then what they wrote last."""
    _, reference, seconds = undisturbed
    project, draw, done = copy_of_undisturbed(), random.Random(3), 0
    for stage in ("tokenize", "train", "hebbian", "compare"):
        running = project.start("dvc", "repro", "--force", "--single-item", STAGES[stage])
        wait(lambda running=running: stage_below(running.pid) or running.poll() is not None)
        time.sleep(draw.uniform(0.5, 1.0) * seconds[stage])
        at = time.time()
        for process in processes(project):
            try:
                process.kill()
            except psutil.Error:
                continue
        running.communicate()
        cut_short(project, at - LAST_WRITES_S)
        assert completed(project, reference)
        done += 1
    project.run("bdh", "sync")
    check_clean(project)
    record("power cut: the last writes cut short", injected=done, recovered=done, identical=done)


@pytest.fixture
def small_disk(tmp_path, undisturbed):
    """A file system that has hardly more room than a finished project."""
    folder = tmp_path / "disk"
    folder.mkdir()
    used = int(subprocess.run(["du", "-sk", undisturbed[0].folder], capture_output=True, text=True).stdout.split()[0])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used * 2 + 8192}k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, left):
    """A file that leaves `left` bytes on a disk."""
    ballast = folder.parent / "disk/ballast"
    free = shutil.disk_usage(folder).free
    with ballast.open("wb") as file:
        for _ in range(max(0, free - left) // ROOM):
            file.write(b"\0" * ROOM)
    return ballast


@MOUNTS
def test_full_disk_is_said_and_loses_nothing(undisturbed, copy_of_undisturbed, small_disk):
    """Stages that find the disk full at once, and those that fill it with what they write."""
    project = copy_of_undisturbed(small_disk / "project")
    done = 0
    for stage, made, left in (("tokenize", "tokens", ROOM), ("train", "runs", 2 * ROOM), ("hebbian", "hebbian", ROOM)):
        shutil.rmtree(project.folder / "data" / made)  # else the stage has the room of what it replaces
        ballast = fill(small_disk, left)
        ended = project.repro("--force", "--single-item", STAGES[stage], check=False)
        ballast.unlink()
        assert ended.returncode != 0, f"{stage} had room"
        said = ended.stdout + ended.stderr
        assert "Traceback" not in said, said
        assert "space left" in said.lower() or "disk is full" in said.lower() or "disk" in said.lower(), said
        assert completed(project, undisturbed[1])
        done += 1
    project.run("bdh", "sync")
    check_clean(project)
    record("disk full", injected=done, recovered=done, identical=done)


@MOUNTS
def test_folder_that_cannot_be_written_to_is_one_line(undisturbed, copy_of_undisturbed):
    project, done = copy_of_undisturbed(), 0
    for stage, name in (
        ("fetch", "data/raw"),
        ("train", "data/runs"),
        ("train", "data/checkpoints"),
        ("twins", "data/twins"),
    ):
        folder = project.folder / name
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        try:
            words = STAGES[stage].replace("@", "-").split("-")
            ended = project.run(f"stages.{words[0]}", *words[1:], check=False)
        finally:
            subprocess.run(["umount", folder], check=True)
        assert ended.returncode == 2, ended.stderr
        lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in ended.stderr, ended.stderr
        assert name in lines[0], lines
        assert completed(project, undisturbed[1])
        done += 1
    project.run("bdh", "sync")
    check_clean(project)
    record("folder that cannot be written to", injected=done, recovered=done, identical=done)


def test_too_little_memory_ends_a_stage_and_nothing_else(undisturbed, copy_of_undisturbed):
    """Whatever a limit of the address space stops, from the first import to the last step."""
    project, done = copy_of_undisturbed(), 0
    for stage, mib in (("train", 300), ("train", 1200), ("hebbian", 1800)):
        subprocess.run(
            project.command("dvc", "repro", "--force", "--single-item", STAGES[stage]),
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            preexec_fn=lambda mib=mib: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20)),
            check=False,
            timeout=600,
        )
        check_quiet(project)
        assert completed(project, undisturbed[1])
        done += 1
    project.run("bdh", "sync")
    check_clean(project)
    record("memory limit", injected=done, recovered=done, identical=done)
