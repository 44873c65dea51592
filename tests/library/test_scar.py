"""SCAR: what its first feature learns, and from what."""

import torch
from oracles import assert_finite_differences_agree
from torch.nn import functional

from saelab.saes.scar import Scar
from saelab.saes.topk import TopK
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

CONCEPT = 5


def labelled(num_rows, seed, known=1.0):
    x, directions = planted(num_rows, seed)
    strength = (x - 3) @ torch.linalg.pinv(directions)  # only to know where the concept is strong; features overlap
    noise = torch.Generator().manual_seed(0)
    label = torch.where(strength[:, CONCEPT] > strength[:, CONCEPT].quantile(0.9), 1.0, -1.0)
    label = label * (torch.rand(num_rows, generator=noise) < known)
    return torch.cat([x, label[:, None]], 1), directions


def test_the_concept_term_is_the_cross_entropy_of_the_rows_that_have_a_label():
    rows, _ = labelled(300, seed=1, known=0.5)
    sae = Scar(D_IN, Scar.Config(d_sae=NUM_FEATURES, k=L0, concept=2.0))
    sae.initialise(rows, torch.Generator().manual_seed(0))
    found = sae.losses(rows, torch.arange(0), 1.0)
    x, label = rows[:, :D_IN].double(), rows[:, D_IN]
    scale = sae.scale.double()
    logit = (x / scale - sae.b_dec.detach().double()) @ sae.encoder[0].detach().double() + sae.b_enc[0].detach().double()
    wrong = functional.softplus(-logit * label.double())[label != 0].mean()
    assert torch.allclose(found.terms["concept"].detach().double(), 2.0 * wrong, rtol=1e-4)
    plain = TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=L0))
    plain.load_state_dict(sae.state_dict())
    assert torch.equal(plain.losses(rows[:, :D_IN], torch.arange(0), 1.0).terms["reconstruction"], found.terms["reconstruction"])


def test_rows_without_any_label_teach_nothing():
    rows, _ = labelled(300, seed=1, known=0.0)
    sae = Scar.sized(D_IN, NUM_FEATURES, L0)
    sae.initialise(rows, torch.Generator().manual_seed(0))
    assert float(sae.losses(rows, torch.arange(0), 1.0).terms["concept"].detach()) == 0.0


def test_the_first_feature_tells_the_concept_on_rows_it_never_saw():
    rows, _ = labelled(300 * 512, seed=1)
    trainer = Trainer(Scar.sized(D_IN, NUM_FEATURES, L0), TrainConfig(steps=300, batch_size=512, lr=1e-2))
    trainer.fit(lambda start: iter(rows.split(512)[start:]))
    new, _ = labelled(4000, seed=2)
    x, label = new[:, :D_IN], new[:, D_IN] > 0
    sae = trainer.dictionary
    pre = (sae.centred(x) @ sae.weights()[0][0]).detach()
    higher = (pre[label][:, None] > pre[~label][None]).double().mean()
    assert float(higher) > 0.98
    fires = (sae.encode(x).dense()[:, 0] > 0).double()
    assert float(fires[label].mean()) > 20 * float(fires[~label].mean())


def test_the_gradient_of_the_concept_term_is_that_of_finite_differences():
    rows = labelled(40, seed=1, known=0.5)[0].double()
    sae = Scar(D_IN, Scar.Config(d_sae=NUM_FEATURES, k=L0)).double()
    sae.initialise(rows, torch.Generator().manual_seed(0))
    assert_finite_differences_agree(sae, rows, "concept", ("encoder", "b_enc", "b_dec"))
