"""saelab's own trainer with all its bookkeeping, as `Trainer.fit` runs it: steps, and a log line every 20th."""

from collections.abc import Iterator

import torch
from made import Made, autocast
from torch import Tensor
from workload import Shape

from saelab.dictionary import DICTIONARIES, Trainable
from saelab.recording import Recording
from saelab.training import TrainConfig, Trainer
from saelab.values import from_dict

_STEPS = 50_000
"""Length of the run that the steps are taken from: its schedules and its rule of when a feature is dead."""


def make(shape: Shape, sample: Tensor, architecture: str, precision: str) -> Made:
    """The architecture at its defaults. JumpReLU's thresholds begin where the sample has the L0 that it aims at."""
    kind = DICTIONARIES[architecture]
    assert issubclass(kind, Trainable)
    aim = {"target_l0": float(shape.k), "initial_l0": 1.0} if architecture == "jumprelu" else {"k": shape.k}
    dictionary = kind(shape.d_in, from_dict(kind.Config, {"d_sae": shape.d_sae, **aim})).to(sample.device)  # type: ignore[call-arg]
    trainer = Trainer(dictionary, from_dict(TrainConfig, {"steps": _STEPS, "batch_size": shape.batch, "precision": precision}))
    trainer.initialise(sample)

    def fit(batches: Iterator[Tensor]) -> None:
        for x in batches:
            trainer.step(x)
            if trainer.due():
                trainer.row()

    recorded = sample.is_cuda and precision == "bf16" and architecture in ("topk", "abstopk")  # others must ask how many slots they need
    encoder = Recording(dictionary.encode) if recorded else dictionary.encode

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return encoder(x).values

    return Made(fit, encode)
