"""Devices: which can be used, what memory they have free, and which number format is fast there."""

import os
import time
from pathlib import Path

import torch

from saelab.errors import Invalid


def usable(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one, else the CPU. Raises `Invalid` where it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise Invalid(f"The device {name!r} cannot be used: {reason}. Give cpu, cuda or auto.") from None


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device. On the CPU those of files that are cached count as free, where the system tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a matrix product in it is at least 1.5 times as fast as in float32, else float32."""
    if device.type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _product_seconds(torch.float32) >= 1.5 * _product_seconds(torch.bfloat16) else torch.float32


def _product_seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(512, 768, dtype=dtype), torch.ones(768, 1536, dtype=dtype)
    times: list[float] = []
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begin)
    return min(times)
