"""The peers' trainers, unpatched, in their own loops: sae-lens 6.54.12, dictionary-learning 0.1.0, eai-sparsify 1.3.3.

Their heavy imports are stand-ins (`stubs.py`); logging services are off. JumpReLU's thresholds are set where the first batch has the k
active features a row that all others have, which changes nothing for code that computes densely.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from made import Made, autocast, threshold
from torch import Tensor, nn
from workload import Shape

sys.path.append(str(Path(__file__).parents[1]))
from stubs import absent

_STEPS = 50_000
"""Length of the run that the steps are taken from."""


def make_saelens(shape: Shape, sample: Tensor, architecture: str, precision: str) -> Made:
    """`SAETrainer.fit` with its defaults, or with `autocast`."""
    with absent():
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
    name = {"topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU"}[architecture]
    extra: dict[str, Any] = {} if architecture == "jumprelu" else {"k": shape.k}
    device = str(sample.device)
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=shape.d_in, d_sae=shape.d_sae, dtype="float32", device=device, **extra)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    if architecture == "jumprelu":
        with torch.no_grad():
            sae.threshold.fill_(threshold(sae.encode_with_hidden_pre(sample[:256])[1], shape.k))
    settings = SAETrainerConfig(
        total_training_samples=_STEPS * shape.batch,
        train_batch_size_samples=shape.batch,
        lr_end=3e-5,
        lr_warm_up_steps=1000,  # as users set it; without, the first steps take JumpReLU far from its L0
        device=device,
        autocast=precision == "bf16",
        logger=LoggingConfig(log_to_wandb=False),
    )

    def fit(batches: Iterator[Tensor]) -> None:
        sae_lens.SAETrainer(settings, sae, batches).fit()

    return Made(fit, _encoder(sae.encode, precision))


def make_dictionary_learning(shape: Shape, sample: Tensor, architecture: str, precision: str) -> Made:
    """`update` as `trainSAE` calls it; from the second step on past its 2,000th, so that it follows the threshold."""
    device = sample.device
    if precision == "bf16" and device.type == "cpu":
        raise NotImplementedError("trainSAE of dictionary-learning 0.1.0 has no autocast on a CPU")
    with absent():
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer
    kind = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer, "jumprelu": JumpReluTrainer}[architecture]
    extra: dict[str, Any] = {"target_l0": float(shape.k)} if architecture == "jumprelu" else {"k": shape.k}
    trainer = kind(
        steps=_STEPS, activation_dim=shape.d_in, dict_size=shape.d_sae, layer=0, lm_name="none", seed=0, device=str(device), **extra
    )
    if architecture == "jumprelu":
        with torch.no_grad():
            trainer.ae.threshold.fill_(threshold(sample[:256] @ trainer.ae.W_enc + trainer.ae.b_enc, shape.k))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def fit(batches: Iterator[Tensor]) -> None:
        for number, x in enumerate(batches):
            with autocast(device, precision):
                trainer.update(number and 2000 + number, x.to(dtype))

    return Made(fit, _encoder(trainer.ae.encode, precision))


class _Emitter(nn.Module):
    """Stands in for a model of one layer: its layer emits the next batch, in bfloat16 on a GPU as models do."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.layer = nn.Identity()
        self.device, self.base_model = device, _Base(self.layer)
        self.batches: Iterator[Tensor] | None = None
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, width, device=device)}

    def forward(self, input_ids: Tensor) -> None:
        if self.batches is None:
            self.layer(input_ids)
        else:
            x = next(self.batches)
            self.layer((x.bfloat16() if x.is_cuda else x)[None])


class _Base(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])


class _Prompts:
    """As many texts of as many tokens as a batch has rows."""

    def __init__(self, size: int) -> None:
        self.row = {"input_ids": torch.zeros(size, dtype=torch.long)}

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        return self.row


def make_sparsify(shape: Shape, sample: Tensor, optimiser: str) -> Made:
    """`Trainer.fit` on a stand-in model, with its default optimiser (signum) or Adam."""
    with absent():
        from sparsify import SparseCoderConfig, TrainConfig, Trainer
    model = _Emitter(shape.d_in, sample.device)
    coder = SparseCoderConfig(num_latents=shape.d_sae, k=shape.k)
    settings: dict[str, Any] = {"optimizer": optimiser, "layers": [0], "log_to_wandb": False, "save_every": 10 * _STEPS}
    config = TrainConfig(coder, batch_size=1, **settings)
    trainer = Trainer(config, _Prompts(shape.batch), model)  # type: ignore[arg-type]
    (sae,) = trainer.saes.values()

    def fit(batches: Iterator[Tensor]) -> None:
        model.batches = batches
        trainer.fit()

    def encode(x: Tensor) -> Tensor:
        return sae.encode(x).top_acts

    return Made(fit, _encoder(encode, "bf16" if sample.is_cuda else "fp32"))


def _encoder(encode: Any, precision: str):
    @torch.no_grad()
    def encoded(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return encode(x)

    return encoded
