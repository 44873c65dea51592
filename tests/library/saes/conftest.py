import pytest
import torch

from saelab.testing import D_IN, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

STEPS, BATCH = 400, 512


@pytest.fixture(scope="session")
def learned():
    """Trains a dictionary on planted features; gives L0 and FVU on rows that it has not seen."""
    x, fresh = planted(STEPS * BATCH, seed=9)[0], planted(4096, seed=10)[0]

    def learn(kind, **settings) -> tuple[float, float]:
        sae = kind(D_IN, kind.Config(d_sae=NUM_FEATURES, **settings))
        Trainer(sae, TrainConfig(steps=STEPS, batch_size=BATCH, lr=1e-2)).fit(lambda start: iter(x.split(BATCH)[start:]))
        with torch.no_grad():
            codes = sae.encode(fresh)
            error = (fresh - sae.decode(codes)).square().sum() / (fresh - fresh.mean(0)).square().sum()
        return float(codes.l0().mean()), float(error)

    return learn
