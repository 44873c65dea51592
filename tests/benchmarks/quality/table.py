"""A Markdown table of the grid's results: `python table.py RESULTS.jsonl [MORE.jsonl ...]`."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = """| run | L0 | FVU | CE + nats | dead | dense > 10 % | rows/s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def _spread(value: float, interval: list[float | None]) -> str:
    low, high = interval
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ± {(high - low) / 2:.4f}"


def _line(result: dict[str, Any]) -> str:
    if "fvu" not in result:
        return f"| {result['name']} | | {result.get('skipped') or result['error'].splitlines()[0][:80]} | | | | |"
    fvu, ce = _spread(result["fvu"], result["fvu_interval"]), _spread(result["ce_increase"], result["ce_interval"])
    shares = f"{result['dead']:.2%} | {result['dense']:.2%}"
    return f"| {result['name']} | {result['l0']:.1f} | {fvu} | {ce} | {shares} | {result['rows_per_second']:,.0f} |"


def table(results: Iterable[dict[str, Any]]) -> str:
    """The jobs' results by L0, then FVU; ± is half the 95 % interval over documents."""
    named = [result for result in results if "name" in result]
    ordered = sorted(named, key=lambda result: (round(result.get("l0", 1e9) / 4), result.get("fvu", 0)))
    return "\n".join([HEAD, *map(_line, ordered)])


if __name__ == "__main__":
    print(table(json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text().splitlines()))
