"""The folder of a run and the checkpoints for resuming: what is written is what is read, or one clear line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bdh.models.base import build
from bdh.models.catalog import settings_of
from bdh.project.errors import RunError
from bdh.project.processes import Stop
from bdh.training import resume
from bdh.training.checkpoints import copy_of, load_run, put_into, save_run, tensors_of
from bdh.training.resume import Checkpoint, CheckpointError, CheckpointFolder, fingerprint, only_one

TINY = {"n_layer": 1, "n_embd": 8, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.0}


def config_of(variant, **model):
    shape = {name: value for name, value in TINY.items() if name in settings_of(variant)}
    named = {"variant": variant, "architecture": variant, "vocab_size": 11, "corpus": "toy", "seed": 0}
    return named | {"model": shape | model}


def checkpoint(step, value=1.0):
    return Checkpoint(step, {"model/w": torch.full((3, 5), value), "n": torch.tensor(step)}, {"history": [0.1, value]})


@pytest.mark.parametrize("variant", ["bdh", "transformer"])
def test_run_loads_as_it_was_saved(tmp_path, variant):
    config = config_of(variant, **({"block_size": 16, "window": 16} if variant == "transformer" else {}))
    model = build(variant, vocab_size=11, seed=3, **config["model"]).eval()
    save_run(tmp_path / "run", model, config)
    loaded, read = load_run(tmp_path / "run")
    tokens = torch.arange(9)[None]
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)
    assert read == config
    assert not loaded.training


def test_run_keeps_tied_weights_once_and_writes_the_same_bytes(tmp_path):
    config = config_of("transformer", block_size=16, window=16)
    for name in ("one", "two"):
        save_run(tmp_path / name, build("transformer", vocab_size=11, seed=3, **config["model"]), config)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    model = build("transformer", vocab_size=11, seed=3, **config["model"])
    assert sum(t.numel() for t in load_file(tmp_path / "one/model.safetensors").values()) == model.parameter_count()


def test_weights_of_a_tied_model_go_round():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("mask", torch.ones(3, dtype=torch.bool))

    one, two = Tied(), Tied()
    assert set(tensors_of(one)) == {"embed.weight", "mask"}
    one.mask[1] = False
    put_into(two, copy_of(one), "test")
    assert torch.equal(two.head.weight, one.embed.weight)
    assert torch.equal(two.mask, one.mask)


def test_run_on_a_full_disk_is_one_clear_line_and_the_old_run_stays(tmp_path, monkeypatch):
    config = config_of("bdh")
    model = build("bdh", vocab_size=11, seed=0, **config["model"])
    save_run(tmp_path, model, config)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*_args):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("bdh.training.checkpoints.save_file", full)
    with pytest.raises(RunError, match=r"model\.safetensors cannot be written .*No space left"):
        save_run(tmp_path, build("bdh", vocab_size=11, seed=1, **config["model"]), config)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def flip_last_bit(path):
    """Another weight, no other size or shape."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.json").unlink(), "config.json is missing"),
        (lambda run: (run / "config.json").write_text("{"), "config.json has another shape"),
        (lambda run: (run / "config.json").write_text("{}"), "variant: Field required"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: (run / "model.safetensors").write_bytes(b"nonsense"), "model.safetensors is damaged"),
        (lambda run: flip_last_bit(run / "model.safetensors"), "model.safetensors is damaged .*sha256"),
        (lambda run: (run / "config.json").write_text(json.dumps(config_of("bdh", n_embd=16))), "does not fit"),
        (lambda run: (run / "config.json").write_text(json.dumps(config_of("transformer"))), "does not fit"),
    ],
)
def test_run_damaged_is_one_clear_line(tmp_path, damage, message):
    config = config_of("bdh")
    save_run(tmp_path, build("bdh", vocab_size=11, seed=0, **config["model"]), config)
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        load_run(tmp_path)


def test_checkpoint_reads_back_exactly_and_keeps_the_last_two(tmp_path):
    folder = CheckpointFolder("k", "f", tmp_path)
    folder.prepare()
    assert folder.read() is None
    for step in (3, 6, 20):
        folder.write(checkpoint(step, step / 7))
    assert folder.steps() == [6, 20]
    newest = folder.read()
    assert newest.step == 20
    assert newest.rest == {"history": [0.1, 20 / 7]}
    assert torch.equal(newest.tensors["model/w"], torch.full((3, 5), 20 / 7))
    assert int(newest.tensors["n"]) == 20


@pytest.mark.parametrize("name", ["tensors.safetensors", "rest.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_checkpoint_damaged_is_passed_over_with_one_warning(tmp_path, caplog, name, how):
    folder = CheckpointFolder("k", "f", tmp_path)
    folder.prepare()
    folder.write(checkpoint(3))
    folder.write(checkpoint(6))
    path = folder.path / "6" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes(data if how == "flip" else data[: len(data) // 2])
    assert folder.read().step == 3
    assert len(caplog.records) == 1
    assert "damaged checkpoint" in caplog.text
    assert folder.steps() == [3]


def test_checkpoint_all_damaged_means_a_fresh_start(tmp_path, caplog):
    folder = CheckpointFolder("k", "f", tmp_path)
    folder.prepare()
    folder.write(checkpoint(3))
    (folder.path / "3" / "rest.json").write_text("")
    assert folder.read() is None
    assert "damaged checkpoint" in caplog.text


@pytest.mark.parametrize("place", ["tensors", "rest", "rename"])
def test_checkpoint_on_a_full_disk_keeps_the_last_good_one(tmp_path, monkeypatch, place):
    folder = CheckpointFolder("k", "f", tmp_path)
    folder.prepare()
    folder.write(checkpoint(3))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    if place == "tensors":
        monkeypatch.setattr(resume, "save_file", full)
    elif place == "rest":
        monkeypatch.setattr("pathlib.Path.write_text", full)
    else:
        monkeypatch.setattr("pathlib.Path.rename", full)
    with pytest.raises(CheckpointError, match=r"step 6 cannot be written \(.*No space left.*step 3 is kept") as caught:
        folder.write(checkpoint(6))
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.path.iterdir()] == ["3"]
    assert folder.read().step == 3


def test_checkpoint_file_too_large_for_the_system_is_one_clear_line(tmp_path):
    program = """
import resource, sys, torch
from pathlib import Path
from bdh.project.errors import reported
from bdh.training.resume import Checkpoint, CheckpointFolder
folder = CheckpointFolder("k", "f", Path(sys.argv[1]))
folder.prepare()
folder.write(Checkpoint(1, {"w": torch.zeros(10)}, {}))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
reported(folder.write)(Checkpoint(2, {"w": torch.zeros(100_000)}, {}))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the checkpoint of step 1 is kept" in done.stderr
    assert CheckpointFolder("k", "f", tmp_path).read().step == 1


def test_checkpoint_folder_forgets_other_fingerprints_and_half_written_ones(tmp_path):
    old, new = CheckpointFolder("k", "old", tmp_path), CheckpointFolder("k", "new", tmp_path)
    other = CheckpointFolder("another", "old", tmp_path)
    for folder in (old, other, new):
        folder.prepare()
        folder.write(checkpoint(3))
    (new.path / ".partial-9").mkdir()
    (new.path / "mlflow.json").write_text("{}")
    new.prepare()
    assert not old.path.exists()
    assert other.read().step == 3
    assert sorted(path.name for path in new.path.iterdir()) == ["3", "mlflow.json"]
    new.clear()
    assert not new.path.parent.exists()


def test_fingerprint_tells_settings_apart():
    parts = {"train.steps": 3, "corpus_digest": "a", "code": ["x"]}
    assert fingerprint(parts) == fingerprint(dict(reversed(parts.items())))
    changed = [parts | {"train.steps": 4}, parts | {"corpus_digest": "b"}, parts | {"code": ["y"]}, parts | {"z": 0}]
    assert len({fingerprint(p) for p in [parts, *changed]}) == 5


HOLDER = """
import sys, time
from pathlib import Path
from bdh.training.resume import only_one
from bdh.project.processes import stoppable
with stoppable() as stop, stop.deferred(), only_one("k", stop, Path(sys.argv[1])):
    print("held", flush=True)
    while stop.requested is None:
        time.sleep(0.01)
    time.sleep(float(sys.argv[2]))
"""


def holder(root, dying_s):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), str(dying_s)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_refuses_a_second_process(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "GRACE_S", 0.3)
    process = holder(tmp_path, 0)
    try:
        message = rf"k is being trained by another process \(pid {process.pid}\)"
        with pytest.raises(RunError, match=message), only_one("k", Stop(), tmp_path):
            pass
        with only_one("another", Stop(), tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with only_one("k", Stop(), tmp_path):
        pass


def test_lock_waits_for_a_process_that_is_on_its_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "GRACE_S", 0.3)
    process = holder(tmp_path, 1.5)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not json.loads((tmp_path / "k.owner.json").read_text())["stopping"] and time.monotonic() < deadline:
        time.sleep(0.01)
    with only_one("k", Stop(), tmp_path):
        assert process.wait(timeout=5) == 143
        assert json.loads((tmp_path / "k.owner.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "k.owner.json").exists()
