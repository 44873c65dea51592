"""Trains a dictionary of saelab by its own trainer, step by step."""

from typing import Any

import torch
from evaluate import Reconstruct
from rows import Rows
from torch import Tensor

from saelab.dictionary import DICTIONARIES, Trainable
from saelab.training import TrainConfig, Trainer
from saelab.values import from_dict


def train(job: dict[str, Any], rows: Rows) -> Reconstruct:
    """A dictionary by the job's `architecture`, `config` (fields of its Config) and `train` (fields of TrainConfig)."""
    kind = DICTIONARIES[job["architecture"]]
    if not issubclass(kind, Trainable):
        raise TypeError(f"{job['architecture']} is not trained by gradient descent")
    config = from_dict(kind.Config, {"d_sae": job["d_sae"], **job.get("config", {})})
    dictionary = kind(rows.train.shape[1], config).to(rows.train.device)  # type: ignore[call-arg]
    settings = {"steps": job["steps"], "batch_size": job["batch"], "precision": "bf16", **job.get("train", {})}
    trainer = Trainer(dictionary, from_dict(TrainConfig, settings))
    first = range(min(job["steps"], -(-trainer.config.sample // job["batch"])))
    trainer.initialise(torch.cat([rows.batch(step, job["batch"]) for step in first]))
    for x in rows.batches(job["steps"], job["batch"]):
        trainer.step(x)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = dictionary.encode(x)
        return dictionary.decode(codes), codes.dense() != 0

    return reconstruct
