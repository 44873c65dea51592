"""Where a benchmark runs: what its page says at the top."""

import platform
import shlex
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "triton", "sae-lens", "dictionary-learning", "eai-sparsify", "schedulefree", "eai-delphi", "sae-dashboard"),
    *("transformers", "numpy"),
)


def machine(device: str, threads: int) -> dict[str, Any]:
    """Where and with what the benchmark runs."""
    found: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_cpu()}, {threads} threads"
    return {"device": name, "kind": device, "versions": found, "date": datetime.now(UTC).date().isoformat()}


def opening(theme: str, title: str, how: str, device: str) -> dict[str, Any]:
    """The first line of a file of results, of which `speed/table.py` makes `docs/benchmarks/<theme>_<hardware>_<date>.md`."""
    script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parents[2])
    command = shlex.join(["python", str(script), *sys.argv[1:]])
    facts = {**machine(device, torch.get_num_threads()), "command": command}
    return {"machine": facts, "theme": theme, "title": title, "how": how}


def _cpu() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    facts = {key.strip(): rest.strip() for key, _, rest in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    extras = [name for flag, name in {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}.items() if flag in flags]
    return " with ".join([facts.get("model name", platform.machine()), *([" and ".join(extras)] if extras else [])])
