"""Where a model runs and in which precision: one deterministic choice per machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from bdh.project.errors import DeviceError


def choose_device(name: str, threads: int = 1) -> torch.device:
    """The device for `auto` (a GPU if there is one), `cpu` or `cuda`; DeviceError for `cuda` without a GPU.

    Torch computes with `threads` threads on the CPU from here on: their number changes the last bits of a result, and
    several threads that wait for a busy core are far slower than one.
    """
    torch.set_num_threads(threads)
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        reason = "this torch has no CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda} sees none"
        raise DeviceError(f"device: cuda was asked for and there is no GPU ({reason}); set device: auto or device: cpu")
    return torch.device("cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The compute type for `auto`, `float32` or `bfloat16`; DeviceError for bfloat16 on a GPU without it.

    `auto` never times anything, so one machine always chooses alike: bfloat16 where the hardware multiplies matrices
    in it, that is on GPUs that support it and on CPUs with AMX. On a CPU that has only the AVX512 instructions for
    bfloat16, autocast is slower than float32 (0.7 to 0.9 of its speed, `benchmarks/precision.py`), with AMX 1.5 to 2
    times as fast.
    """
    supported = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        if not supported:
            raise DeviceError("precision: bfloat16 was asked for and this GPU has none; set precision: float32")
        return torch.bfloat16
    fast = supported if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def reads_in_bfloat16(name: str, device: torch.device) -> bool:
    """Whether held-out text is read in bfloat16 autocast: as training on a GPU, on a CPU only if `precision` says so.

    A CPU reads as exactly as it can, whatever it trained in: the text is short there, and the arms differ by little.
    """
    chosen = choose_precision(name, device)
    return chosen == torch.bfloat16 and (device.type == "cuda" or name == "bfloat16")


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Context that computes in `precision` where that is safe; does nothing for float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def fix_seed(seed: int, device: torch.device) -> None:
    """Seed torch on every device and choose deterministic kernels on a CPU, so that one machine repeats a run exactly.

    Kernels of a GPU are left alone: there the same seed gives the same data, weights and masks, and results that
    differ by rounding.
    """
    torch.manual_seed(seed)
    if device.type == "cpu":
        torch.set_deterministic_debug_mode("warn")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
