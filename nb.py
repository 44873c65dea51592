from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go
import torch

from saelab import figures, recipes, stages
from saelab.activations.memory import MemoryStore
from saelab.activations.shuffle import Shuffled
from saelab.analyses.recovery import recovery
from saelab.baselines.random import Random
from saelab.describe import read_log
from saelab.dictionary import load_dictionary, save_dictionary
from saelab.grid import SweepStage, sweep
from saelab.lab import Lab
from saelab.planted import Planted, World
from saelab.run import Run
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.gated import Gated
from saelab.saes.topk import TopK
from saelab.sweep import Member, fit
from saelab.training import TrainConfig, Trainer

run, recipe = Run(Path("runs/training")), recipes.toy()
stages.read(run, recipe.read, recipe.texts)
stages.capture(run, recipe.capture)
hook = recipe.capture.hooks[0]
hook, run.need("capture").facts["num_rows"]
train = TrainConfig(steps=400, batch_size=128, lr=3e-3, evaluate_every=100)
config = SweepStage(hook=(hook,), grid={"k": (4, 8, 16), "seed": (0, 1)}, train=train)
names = sweep(run, config, [TopK.Config(d_sae=128), BatchTopK.Config(d_sae=128)])
names
figures.training_curves(read_log(run.source("1-res-batchtopk-k8-s0").path))
last = {name: read_log(run.source(name).path)[-1].metrics for name in names}
figure = go.Figure(layout={"xaxis": {"title": "L0, held out"}, "yaxis": {"title": "FVU, held out"}, "template": "none"})
for architecture, colour in {"topk": figures.BLUE, "batchtopk": figures.ORANGE}.items():
    mine = {name: metrics for name, metrics in last.items() if f"-{architecture}-" in name}
    figure.add_scatter(
        x=[metrics["eval/l0"] for metrics in mine.values()],
        y=[metrics["eval/fvu"] for metrics in mine.values()],
        text=list(mine),
        name=architecture,
        mode="markers",
        marker={"color": colour, "size": 9},
    )
figure
world = World(Planted(d_in=32, num_features=64, l0=4, noise=0.05, mean=1.0))
batches = Shuffled(MemoryStore.of_vectors(world.batch(40_000).x), size=256, seed=0)
settings = TrainConfig(steps=120, batch_size=256, lr=1e-2, sample=10_000, checkpoint_every=0.1)


class PowerCutError(Exception):
    pass


def cut(step: int) -> Iterator[torch.Tensor]:
    for number, x in enumerate(batches(step), start=step):
        if number == 70:
            raise PowerCutError
        yield x


def trainer(folder: str) -> Trainer:
    return Trainer(TopK(32, TopK.Config(d_sae=64, k=4)), settings, Path(folder))


try:
    trainer("stopped").fit(cut)
except PowerCutError:
    print("left behind:", sorted(path.name for path in Path("stopped").iterdir()))

resumed, whole = trainer("stopped"), trainer("whole")
resumed.fit(batches)
whole.fit(batches)
pairs = zip(resumed.dictionary.state_dict().values(), whole.dictionary.state_dict().values(), strict=True)
assert all(torch.equal(one, other) for one, other in pairs)
print("the same bits:", sorted(path.name for path in Path("stopped").iterdir()))
longer = TrainConfig(steps=500, batch_size=256, lr=1e-2)
saes = [
    TopK(32, TopK.Config(d_sae=64, k=4)),
    BatchTopK(32, BatchTopK.Config(d_sae=64, k=4)),
    Gated(32, Gated.Config(d_sae=64, target_l0=4)),
]
fit([Member(Trainer(sae, longer), batches) for sae in saes])
found = {sae.architecture: recovery(sae, world, num_rows=5000) for sae in [*saes, Random.fit(world.batch(4096).x, k=4, d_sae=64)]}
for name, measured in found.items():
    print(f"{name:10s} MCC {measured.mcc:.2f}  precision {measured.precision:.2f}  recall {measured.recall:.2f}  FVU {measured.fvu:.3f}")
assert min(found[sae.architecture].mcc for sae in saes) > found["random"].mcc + 0.2
colours = [figures.BLUE] * len(saes) + [figures.GREY]
go.Figure(
    go.Bar(x=list(found), y=[measured.mcc for measured in found.values()], marker={"color": colours}),
    layout={"yaxis": {"title": "MCC", "range": [0, 1]}, "template": "none"},
)
save_dictionary(saes[0], Path("planted-topk"))
again = load_dictionary(Path("planted-topk"))
x = world.batch(5, seed=7).x
assert torch.allclose(again.encode(x).dense(), saes[0].encode(x).dense(), atol=1e-5)
print(sorted(path.name for path in Path("planted-topk").iterdir()))
Lab(run, "1-res-topk-k8-s0").dictionary.provenance
