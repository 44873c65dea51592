"""SAEBench's results: reports written in its JSON envelope, and its files read.

The envelope is that of SAEBench 0.6.0, field for field: `eval_type_id`, `eval_config`, `eval_id`, `datetime_epoch_millis`,
`eval_result_metrics` (groups of flat numbers), `eval_result_details`, `sae_bench_commit_hash`, `sae_lens_id`, `sae_lens_release_id`,
`sae_lens_version`, `sae_cfg_dict`, `eval_result_unstructured`. The whole report stands under `eval_result_unstructured.saelab`, where
SAEBench's readers do not look: intervals, nulls, tables.

A number has SAEBench's name only where it is the same quantity, computed correctly; docs/evaluation.md says where the two differ, and
`metric_impl` which of them a file holds. An evaluation that SAEBench does not have is called `saelab_<analysis>`.
"""

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from saelab.dictionary import Dictionary, settings_of
from saelab.errors import Corrupt
from saelab.reports import Report
from saelab.run import versions, write_atomically
from saelab.values import to_dict, value

METRIC_IMPL = "saelab-1"
"""How the numbers of a file written by saelab were computed."""
THEIRS = "sae_bench"
"""The same of a file that SAEBench wrote."""
_ENVELOPE = ("eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics", "sae_lens_id", "sae_lens_release_id")
_CORE: Mapping[str, Mapping[str, str]] = {
    "model_behavior_preservation": {
        "kl_div_score": "kl_recovered_zero",
        "kl_div_with_ablation": "kl_zero",
        "kl_div_with_sae": "kl_spliced",
    },
    "model_performance_preservation": {
        "ce_loss_score": "ce_recovered_zero",
        "ce_loss_with_ablation": "ce_zero",
        "ce_loss_with_sae": "ce_spliced",
        "ce_loss_without_sae": "ce_clean",
    },
    "reconstruction_quality": {"explained_variance": "explained_variance", "cossim": "cosine"},
    "shrinkage": {"l2_ratio": "norm_ratio"},
    "sparsity": {"l0": "l0"},
}
"""Their groups and names, and our measure of the same quantity."""
_TYPES = {"core": "core", "scr": "scr", "tpp": "tpp", "unlearning": "unlearning"}
"""Analyses whose evaluation SAEBench has too."""
_COUNTED: Mapping[str, Mapping[str, str]] = {
    "scr": {"scr_metric_threshold_{}": "scr_n"},
    "tpp": {
        "tpp_threshold_{}_total_metric": "tpp_n",
        "tpp_threshold_{}_intended_diff_only": "tpp_intended_n",
        "tpp_threshold_{}_unintended_diff_only": "tpp_unintended_n",
    },
}
"""Their names of numbers that there is one of for each number of features, and ours up to that number."""


@value
class SaebenchResult:
    """One file of SAEBench's results."""

    eval_type: str
    """What was evaluated, such as `core`."""
    source: str
    """`sae_lens_id`: the dictionary."""
    release: str
    """`sae_lens_release_id`: where it comes from."""
    metrics: dict[str, float | None]
    """Numbers by `group.name`; none where the file says null, or -1 for a number that cannot be negative."""
    details: tuple[dict[str, Any], ...] = ()
    """What the file says of each feature, class or letter."""
    metric_impl: str = THEIRS
    """Whose formulas: numbers of one name under two of these must not be compared."""


def envelope(report: Report, dictionary: Dictionary, strict: bool = False) -> dict[str, Any]:
    """A report in SAEBench's layout.

    Arguments:
    - `dictionary`: what was evaluated; its settings are written along.
    - `strict`: -1 where a number is missing, as SAEBench writes it; else null.
    """
    found: dict[str, float] = {one.name: one.estimate.value for one in report.measures}
    missing = -1.0 if strict else None
    if report.analysis == "core":
        found = {**found, **({"kl_spliced": found["kl"]} if "kl" in found else {})}
        metrics = {group: {theirs: found.get(ours, missing) for theirs, ours in names.items()} for group, names in _CORE.items()}
    elif report.analysis in _COUNTED:
        metrics = {f"{report.analysis}_metrics": _counted(report.analysis, found)}
    elif report.analysis in _TYPES:
        metrics = {report.analysis: {"unlearning_score": missing}, f"saelab_{report.analysis}": found}
    else:
        metrics = {report.analysis: found}
    return {
        "eval_type_id": _TYPES.get(report.analysis, f"saelab_{report.analysis}"),
        "eval_config": report.config,
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": metrics,
        "eval_result_details": [],
        "sae_bench_commit_hash": f"saelab-{versions()['saelab']}",
        "sae_lens_id": report.source,
        "sae_lens_release_id": report.model,
        "sae_lens_version": None,
        "sae_cfg_dict": settings_of(dictionary),
        "eval_result_unstructured": {
            "saelab": {"schema": 1, "metric_impl": METRIC_IMPL, "experimental": report.experimental, "report": to_dict(report)}
        },
    }


def _counted(analysis: str, found: Mapping[str, float]) -> dict[str, float]:
    """Numbers for each number of features under SAEBench's names."""
    return {
        theirs.format(name.removeprefix(ours)): number
        for theirs, ours in _COUNTED[analysis].items()
        for name, number in found.items()
        if name.startswith(ours)
    }


def write_saebench(report: Report, dictionary: Dictionary, folder: Path, strict: bool = False) -> Path:
    """Writes a report in SAEBench's layout to `folder/<eval type>/`, and gives the file. Raises `Conflict` if it cannot be written."""
    content = envelope(report, dictionary, strict)
    name = f"{report.model}_{report.source}_eval_results.json".replace("/", "_")
    file = folder / content["eval_type_id"] / name
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return file


def read_saebench(file: Path) -> SaebenchResult:
    """Reads results that SAEBench or saelab wrote. Raises `Corrupt` naming the file and what is missing."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{file} cannot be read as SAEBench's results: {error}.") from None
    missing = [name for name in _ENVELOPE if not isinstance(content, dict) or name not in content]
    if missing:
        raise Corrupt(
            f"{file} is no file of SAEBench's results: {', '.join(missing)} missing. Give a file *_eval_results.json of its output."
        )
    free = content.get("eval_result_unstructured")
    ours = free.get("saelab", {}) if isinstance(free, dict) else {}
    impl = ours.get("metric_impl", THEIRS)
    return SaebenchResult(
        eval_type=content["eval_type_id"],
        source=str(content["sae_lens_id"]),
        release=str(content["sae_lens_release_id"]),
        metrics=_flat(content["eval_result_metrics"], file, impl),
        details=tuple(content.get("eval_result_details") or ()),
        metric_impl=impl,
    )


def _flat(groups: object, file: Path, impl: str) -> dict[str, float | None]:
    """Groups of numbers as `group.name`. In SAEBench's own files -1 stands for NaN."""
    if not isinstance(groups, dict):
        raise Corrupt(f"{file}: eval_result_metrics is not an object.")
    found: dict[str, float | None] = {}
    for group, names in cast("dict[str, Any]", groups).items():
        if not isinstance(names, dict):
            raise Corrupt(f"{file}: eval_result_metrics.{group} is not an object.")
        for name, number in cast("dict[str, Any]", names).items():
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
                raise Corrupt(f"{file}: eval_result_metrics.{group}.{name} is {number!r}, where a number was expected.")
            found[f"{group}.{name}"] = None if number is None or (number == -1 and impl == THEIRS) else float(number)
    return found
