"""How many processes a training gets."""

from __future__ import annotations

from bdh.errors import DeviceError
from bdh.params import Train


def processes(settings: Train, gpus: int) -> int:
    """Processes for `train.devices` on a machine that shows `gpus` GPUs to us (0: compute on the CPU).

    `all` is every GPU, or one process on a CPU; on a CPU any number may be asked for by name. What trains nothing
    needs one. Raises DeviceError when more GPUs are asked for than there are.
    """
    if settings.regime == "none":
        return 1
    if settings.devices == "all":
        return max(1, gpus)
    if gpus and settings.devices > gpus:
        raise DeviceError(
            f"train.devices: {settings.devices} were asked for and {gpus} can be used here; lower it, set it to "
            "all, or make more GPUs visible"
        )
    return settings.devices
