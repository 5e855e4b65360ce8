"""What is asked of a card through NVML, and as which metrics it is told.

Mining cards answer "not supported" to one question or another, so each field fails alone: what
could not be read is left out. Values are in the base units of the metrics' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml

#: One series: the metric's name, the value of its own label ("" if it has none), the value.
Series = tuple[str, str, float]

_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_LIMITS = {
    "slowdown": pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
    "shutdown": pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN,
}
#: By the older names, which every driver knows. Being idle holds back nothing.
_THROTTLE_REASONS = {
    "applications_clocks": pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting,
    "sw_power_cap": pynvml.nvmlClocksThrottleReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksThrottleReasonSyncBoost,
    "sw_thermal": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
    "hw_thermal": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "hw_power_brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    "display_clocks": pynvml.nvmlClocksThrottleReasonDisplayClockSetting,
}
#: Labels of `gpu_info`, and who is asked for them.
_TEXTS: dict[str, Callable[[Any], Any]] = {
    "name": pynvml.nvmlDeviceGetName,
    "pci_bus_id": lambda card: pynvml.nvmlDeviceGetPciInfo(card).busId,
    "vbios": pynvml.nvmlDeviceGetVbiosVersion,
    "driver": lambda _: pynvml.nvmlSystemGetDriverVersion(),
}

#: Not there at all, on this card or in this driver.
_ABSENT = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound)
#: After these there is nothing more to ask.
_FATAL = (
    pynvml.NVMLError_GpuIsLost,
    pynvml.NVMLError_Uninitialized,
    pynvml.NVMLError_DriverNotLoaded,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one round of questions brought.

    Attributes:
        series: the measured values.
        texts: labels of `gpu_info`; empty where the card has none.
        failed: the fields that answered with another error than "not supported", and with which.
    """

    series: list[Series] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def read(card: Any) -> Reading:
    """Ask a card for everything.

    Raises:
        pynvml.NVMLError: the card is lost, or the driver is gone.
    """
    reading = Reading()
    for name, question in _QUESTIONS.items():
        with _apart(name, reading):
            reading.series.extend(question(card))
    for name, ask in _TEXTS.items():
        reading.texts[name] = ""
        with _apart(name, reading):
            answer = ask(card)
            reading.texts[name] = answer.decode() if isinstance(answer, bytes) else str(answer)
    return reading


@contextmanager
def _apart(name: str, reading: Reading) -> Iterator[None]:
    """Keep the error of one field from the others."""
    try:
        yield
    except _FATAL:
        raise
    except _ABSENT:
        pass
    except pynvml.NVMLError as error:
        reading.failed[name] = str(error)


def _memory(card: Any) -> Iterator[Series]:
    # The older function: what the driver keeps for itself counts as used, and every driver has it.
    memory = pynvml.nvmlDeviceGetMemoryInfo(card)
    yield "gpu_memory_used_bytes", "", memory.used
    yield "gpu_memory_total_bytes", "", memory.total


def _throttling(card: Any) -> Iterator[Series]:
    bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(card)
    for reason, bit in _THROTTLE_REASONS.items():
        yield "gpu_throttled", reason, float(bool(bits & bit))


def _number(
    metric: str, label: str, ask: Callable[..., int], *arguments: int, factor: float = 1
) -> Callable[[Any], Iterator[Series]]:
    def question(card: Any) -> Iterator[Series]:
        yield metric, label, ask(card, *arguments) * factor

    return question


_MHZ = 1e6
_PERCENT = 0.01
_MILLI = 0.001

#: By the name under which a failure is told.
_QUESTIONS: dict[str, Callable[[Any], Iterator[Series]]] = {
    "memory": _memory,
    "temperature": _number(
        "gpu_temperature_celsius",
        "",
        pynvml.nvmlDeviceGetTemperature,
        pynvml.NVML_TEMPERATURE_GPU,
    ),
    **{
        f"temperature limit {name}": _number(
            "gpu_temperature_limit_celsius",
            name,
            pynvml.nvmlDeviceGetTemperatureThreshold,
            which,
        )
        for name, which in _LIMITS.items()
    },
    "power": _number("gpu_power_watts", "", pynvml.nvmlDeviceGetPowerUsage, factor=_MILLI),
    "power limit": _number(
        "gpu_power_limit_watts", "", pynvml.nvmlDeviceGetEnforcedPowerLimit, factor=_MILLI
    ),
    "utilization": _number(
        "gpu_utilization_ratio",
        "",
        lambda card: int(pynvml.nvmlDeviceGetUtilizationRates(card).gpu),
        factor=_PERCENT,
    ),
    "fan speed": _number("gpu_fan_speed_ratio", "", pynvml.nvmlDeviceGetFanSpeed, factor=_PERCENT),
    **{
        f"clock {name}": _number(
            "gpu_clock_hertz", name, pynvml.nvmlDeviceGetClockInfo, which, factor=_MHZ
        )
        for name, which in _CLOCKS.items()
    },
    **{
        f"highest clock {name}": _number(
            "gpu_clock_max_hertz", name, pynvml.nvmlDeviceGetMaxClockInfo, which, factor=_MHZ
        )
        for name, which in _CLOCKS.items()
    },
    "throttle reasons": _throttling,
    "PCIe generation": _number(
        "gpu_pcie_link_generation", "", pynvml.nvmlDeviceGetCurrPcieLinkGeneration
    ),
    "highest PCIe generation": _number(
        "gpu_pcie_link_generation_max", "", pynvml.nvmlDeviceGetMaxPcieLinkGeneration
    ),
    "PCIe width": _number("gpu_pcie_link_width", "", pynvml.nvmlDeviceGetCurrPcieLinkWidth),
    "highest PCIe width": _number(
        "gpu_pcie_link_width_max", "", pynvml.nvmlDeviceGetMaxPcieLinkWidth
    ),
    "PCIe replays": _number("gpu_pcie_replays_total", "", pynvml.nvmlDeviceGetPcieReplayCounter),
}
