"""Trains dictionaries of SAELens 6.54.12 and dictionary_learning 0.1.0 by their own trainers, unpatched.

Their defaults, but for the warm-up and decay of the learning rate, which all runs share; dictionary_learning reads rows of unit mean
square norm, as its `normalize_activations` makes them. Both are judged by their own encoders and decoders; SAELens's BatchTopK as the
JumpReLU that it saves.
"""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from evaluate import Reconstruct
from rows import Rows
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
from stubs import absent

WARMUP, DECAY = 1000, 0.2
"""Steps over which the learning rate rises, share of the run over which it falls to 0."""
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
"""Matryoshka groups as shares of the features: those of dictionary_learning's demo, for both libraries."""


def _warmup(job: dict[str, Any]) -> int:
    return min(WARMUP, job["steps"] // 4)


def _widths(d_sae: int) -> list[int]:
    sizes = [int(share * d_sae) for share in GROUPS[:-1]]
    return [sum(sizes[: i + 1]) for i in range(len(sizes))] + [d_sae]


def train_saelens(job: dict[str, Any], rows: Rows) -> Reconstruct:
    """By `architecture`, `lr` and `k` or `l0_coefficient`."""
    with absent():
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
    names = {
        "topk": "TopK",
        "batchtopk": "BatchTopK",
        "jumprelu": "JumpReLU",
        "matryoshka": "MatryoshkaBatchTopK",
        "abstopk": "AbsTopK",
    }
    name, device = names[job["architecture"]], str(rows.train.device)
    extra: dict[str, Any] = {"k": job["k"]} if "k" in job else {}
    if name == "JumpReLU":
        extra = {"l0_coefficient": job["l0_coefficient"], "l0_warm_up_steps": 2 * _warmup(job)}
    if name == "MatryoshkaBatchTopK":
        extra["matryoshka_widths"] = _widths(job["d_sae"])
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=rows.train.shape[1], d_sae=job["d_sae"], dtype="float32", device=device, **extra
    )
    lr = job.get("lr", 3e-4)
    trainer = sae_lens.SAETrainer(
        SAETrainerConfig(
            total_training_samples=job["steps"] * job["batch"],
            train_batch_size_samples=job["batch"],
            lr=lr,
            lr_end=lr / 10,
            lr_warm_up_steps=_warmup(job),
            lr_decay_steps=int(DECAY * job["steps"]),
            device=device,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        getattr(sae_lens, f"{name}TrainingSAE")(config),
        rows.batches(job["steps"], job["batch"]),
    )
    trained = trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        trained.save_inference_model(folder)
        sae = sae_lens.SAE.load_from_disk(folder, device=device)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x)
        return sae.decode(codes), codes != 0

    return reconstruct


def train_dictionary_learning(job: dict[str, Any], rows: Rows) -> Reconstruct:
    """By `architecture`, `k` (the target of JumpReLU) and `lr`, none for its default."""
    with absent():
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer
    kinds = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer, "jumprelu": JumpReluTrainer, "matryoshka": MatryoshkaBatchTopKTrainer}
    extra: dict[str, Any] = {"lr": job["lr"]} if "lr" in job else {}
    if job["architecture"] == "jumprelu":
        extra |= {"target_l0": float(job["k"]), "sparsity_warmup_steps": 2 * _warmup(job)}
    else:
        extra["k"] = job["k"]
    if job["architecture"] == "matryoshka":
        extra["group_fractions"] = list(GROUPS)
    trainer = kinds[job["architecture"]](
        steps=job["steps"],
        activation_dim=rows.train.shape[1],
        dict_size=job["d_sae"],
        layer=14,
        lm_name="smollm2-135m-instruct",
        warmup_steps=_warmup(job),
        decay_start=int((1 - DECAY) * job["steps"]),
        seed=job.get("seed", 0),
        device=str(rows.train.device),
        **extra,
    )
    root = math.sqrt(rows.train.shape[1])
    for step, x in enumerate(rows.batches(job["steps"], job["batch"])):
        trainer.update(step, x / root)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = trainer.ae.encode(x / root)
        return trainer.ae.decode(codes) * root, codes != 0

    return reconstruct


def train(job: dict[str, Any], rows: Rows) -> Reconstruct:
    """By the job's `trainer`, `sae_lens` or `dictionary_learning`."""
    torch.manual_seed(job.get("seed", 0))
    return {"sae_lens": train_saelens, "dictionary_learning": train_dictionary_learning}[job["trainer"]](job, rows)
