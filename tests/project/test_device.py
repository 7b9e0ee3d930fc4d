"""Choice of device and precision: deterministic, and a clear line when a wish cannot be met."""

import pytest
import torch

from bdh.project.device import autocast, choose_device, choose_precision, fix_seed, reads_in_bfloat16
from bdh.project.errors import DeviceError

CPU = torch.device("cpu")


def test_device_cpu_is_always_there():
    assert choose_device("cpu") == CPU


def test_device_auto_without_gpu_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU


def test_device_cuda_without_gpu_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"cuda was asked for and there is no GPU.*device: auto") as caught:
        choose_device("cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_device_uses_the_gpu(name):
    assert choose_device(name).type == "cuda"
    assert choose_precision("auto", choose_device(name)) in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("amx", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_auto_on_a_cpu_follows_its_matrix_unit(monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", CPU) == expected


def test_precision_explicit_is_obeyed_on_a_cpu():
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("supported", [True, False])
def test_precision_on_a_gpu_follows_its_support(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    device = torch.device("cuda", 0)
    assert choose_precision("auto", device) == (torch.bfloat16 if supported else torch.float32)
    if supported:
        assert choose_precision("bfloat16", device) == torch.bfloat16
    else:
        with pytest.raises(DeviceError, match="bfloat16 was asked for"):
            choose_precision("bfloat16", device)


def test_autocast_computes_in_the_precision():
    a = torch.randn(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32


def test_seed_repeats_random_numbers():
    fix_seed(5, CPU)
    first = torch.rand(4)
    fix_seed(5, CPU)
    assert torch.equal(torch.rand(4), first)
    fix_seed(6, CPU)
    assert not torch.equal(torch.rand(4), first)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [("auto", "cuda", True), ("auto", "cpu", False), ("bfloat16", "cpu", True), ("float32", "cuda", False)],
)
def test_device_reads_held_out_text_in_bfloat16_on_a_gpu_or_when_told(name, kind, expected, monkeypatch):
    """`auto` meant float32 on every GPU, whatever the model was trained in: four times the time."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert reads_in_bfloat16(name, torch.device(kind)) is expected
