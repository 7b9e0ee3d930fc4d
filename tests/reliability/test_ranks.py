"""Distributed training: a rank that is killed at a random moment, and two nodes with a network of their own each."""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.reliability.disturbed import SIGNALS, end, results
from tests.reliability.faults import record
from tests.support.project import Project
from tests.support.stage_project import ROOT, make_project, start
from tests.training.distributed.test_stage import all_gone, descendants, ranks

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1500)]
KEY = "bdh-sample_plays-0"
STEPS = {"steps": 300, "validate_every": 50, "checkpoint_every": 10, "patience": 1.0}
TWO = {"steps": 12}
PORT = 29611


@pytest.fixture(autouse=True)
def _untracked(monkeypatch):
    monkeypatch.setenv("BDH_TRACKING", "off")


def test_rank_killed_at_random_moments_changes_no_bit(tmp_path):
    """Each kind of kill twice, of either rank, one after the other on one training that goes on each time."""
    reference, folder = (
        make_project(tmp_path / "a", devices=2, **STEPS),
        make_project(tmp_path / "b", devices=2, **STEPS),
    )
    process = start(reference)
    while len(ranks(process)) < 2:
        time.sleep(0.05)
    began = time.monotonic()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    seconds, draw, hits = time.monotonic() - began, random.Random(5), []
    for how in [*SIGNALS] * 2:
        process = start(folder)
        while len(ranks(process)) < 2 and process.poll() is None:
            time.sleep(0.05)
        family = descendants(process)
        time.sleep(draw.uniform(0.1, 0.6) * seconds)
        there = ranks(process) if process.poll() is None else []
        if there:
            end(there[draw.randrange(len(there))], SIGNALS[how], group=False)
            hits.append(how)
        _, errors = process.communicate(timeout=200)
        assert process.returncode != 0 or not there, errors
        all_gone(family, seconds=60)
    process = start(folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert results(Project.there(folder)) == results(Project.there(reference))
    for how in hits:
        record(f"{how} of a rank of a training", recovered=1, identical=1)
    assert len(hits) == 2 * len(SIGNALS)
    assert not list((folder / "data/checkpoints").rglob("*.owner.json"))


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def nodes():
    """Two network namespaces joined by a cable: (name, address) of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"bdh{os.getpid()}{letter}" for letter in "ab"]
    made_here = []
    try:
        for name in names:
            ip("netns", "add", name)
            made_here.append(name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [(name, f"10.77.0.{number}") for number, name in enumerate(names, 1)]
    except subprocess.CalledProcessError as error:
        if made_here:
            raise
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    finally:
        for name in made_here:
            ip("netns", "del", name)


def test_two_nodes_give_what_one_process_gives(tmp_path, nodes):
    """torchrun as README says it, a clone on each node, nothing shared but the cable."""
    still = {"dropout": 0.0}
    alone = make_project(tmp_path / "alone", model=still, **TWO)
    folders = [make_project(tmp_path / name, model=still, **TWO) for name in ("first", "second")]
    one = start(alone)
    _, errors = one.communicate(timeout=200)
    assert one.returncode == 0, errors
    running = []
    for number, (folder, (name, _)) in enumerate(zip(folders, nodes, strict=True)):
        words = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={number}"]
        words += [f"--master-addr={nodes[0][1]}", f"--master-port={PORT}", "-m", "stages.train", *KEY.split("-")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
        running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, *words],
                cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    try:
        said = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    ours, theirs = (load_file(folder / "data/runs" / KEY / "model.safetensors") for folder in (folders[0], alone))
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, rtol=2e-3, atol=2e-5)
    assert not (folders[1] / "data/runs").exists(), "one node writes"
    record("two nodes instead of one process", recovered=1, identical=1)
