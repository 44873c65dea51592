"""Contract suites: what every registered part must do. A new part is tested by existing.

For a part of your own, run the same checks over it:

    @pytest.mark.parametrize("check", DICTIONARY_CHECKS, ids=lambda check: check.__name__)
    def test_my_dictionary(check, tmp_path):
        check(MyDictionary, tmp_path)
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.baselines.base import Baseline
from saelab.baselines.supervised import Supervised
from saelab.dictionary import DICTIONARIES, WEIGHTS_FILE, Codes, Dictionary, Provenance, Trainable, load_dictionary, save_dictionary
from saelab.planted import Planted, World
from saelab.training import TrainConfig, Trainer

D_IN = 24
"""Width of the activations in the suites."""
NUM_FEATURES = 48
"""Planted features, and features of the dictionaries."""
L0 = 4
"""Planted features that are active on one row, on average."""


_WORLD = World(Planted(d_in=D_IN, num_features=NUM_FEATURES, l0=L0, strength=7.0, mean=15.0))


def planted(num_rows: int, seed: int) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "feature d_in"]]:
    """Activations around a mean made of known directions, four a row on average with strengths of 3.5 to 10.5; and the directions."""
    return _WORLD.batch(num_rows, seed=seed).x, _WORLD.directions


def small(kind: type[Dictionary], seed: int = 0) -> Dictionary:
    """A small dictionary of the kind, fitted to planted activations (and labels), or trained on them for a few steps."""
    made = _WORLD.batch(2048, seed=1)
    x = made.x
    if issubclass(kind, Supervised):
        return kind.fit(x, made.firing)
    if issubclass(kind, Baseline):
        return kind.fit(x, L0, seed=seed)
    assert issubclass(kind, Trainable), f"{kind.__name__} is neither a Baseline, nor Supervised, nor Trainable"
    trainer = Trainer(kind.sized(D_IN, NUM_FEATURES, L0), TrainConfig(steps=8, batch_size=256, seed=seed))
    batches = training_rows(trainer.dictionary, x).split(256)
    trainer.fit(lambda start: iter(batches[start:]))
    return trainer.dictionary


def training_rows(dictionary: Trainable, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row width"]:
    """Training rows for activations: what an architecture reads beside them is made of the activations' own first values."""
    return torch.cat([x, x[:, : dictionary.width - dictionary.d_in]], dim=1)


def check_is_registered_under_its_name(kind: type[Dictionary], _folder: Path) -> None:
    """The class knows its own name, and its sizes agree with its directions."""
    dictionary = small(kind)
    assert DICTIONARIES[kind.architecture] is kind
    assert "Config" in vars(kind), "its settings are a class of their own, by which commands know it"
    assert dictionary.directions.shape == (dictionary.d_sae, dictionary.d_in)
    assert torch.allclose(dictionary.directions.norm(dim=1), torch.ones(dictionary.d_sae), atol=1e-5)


def check_takes_any_leading_axes(kind: type[Dictionary], _folder: Path) -> None:
    """No axis, one, two, and none of them filled: always the rows' own codes and reconstructions."""
    dictionary = small(kind)
    x, _ = planted(6, seed=2)
    flat = dictionary.encode(x)
    for shape in [(6,), (2, 3), (1, 2, 3)]:
        codes = dictionary.encode(x.view(*shape, D_IN))
        assert codes.values.shape == codes.indices.shape == (*shape, flat.values.shape[-1])
        assert torch.allclose(codes.dense().view(6, -1), flat.dense(), atol=1e-5)
        assert torch.allclose(dictionary.decode(codes).view(6, D_IN), dictionary.decode(flat), atol=1e-5)
    assert torch.allclose(dictionary.encode(x[0]).dense(), flat.dense()[0], atol=1e-5)
    assert dictionary.decode(dictionary.encode(x[0])).shape == (D_IN,)
    assert dictionary.decode(dictionary.encode(x[:0])).shape == (0, D_IN)


def check_stays_finite_on_odd_batches(kind: type[Dictionary], _folder: Path) -> None:
    """Zeros, one row, a constant batch, and a batch of huge values."""
    dictionary = small(kind)
    x, _ = planted(1, seed=3)
    for batch in (torch.zeros(5, D_IN), x, x.expand(7, D_IN), 1e6 * x):
        assert bool(dictionary.decode(dictionary.encode(batch)).isfinite().all())


def check_accepts_bfloat16(kind: type[Dictionary], _folder: Path) -> None:
    """Activations in bfloat16 give float32 codes, close to those of float32 activations."""
    dictionary = small(kind)
    x, _ = planted(64, seed=4)
    codes = dictionary.encode(x.bfloat16())
    assert codes.values.dtype == torch.float32
    written, reference = dictionary.decode(codes), dictionary.decode(dictionary.encode(x.bfloat16().float()))
    assert torch.equal(written, reference)


def check_decodes_linearly(kind: type[Dictionary], _folder: Path) -> None:
    """Negated codes write the opposite around the bias: nothing assumes that activations are positive."""
    dictionary = small(kind)
    codes = dictionary.encode(planted(16, seed=5)[0])
    nothing = dictionary.decode(replace(codes, values=torch.zeros_like(codes.values)))
    written = dictionary.decode(codes) - nothing
    opposite = dictionary.decode(replace(codes, values=-codes.values)) - nothing
    assert torch.allclose(written, -opposite, atol=1e-4)
    assert torch.allclose(written, codes.dense() @ dictionary.directions, atol=1e-4)


def check_survives_saving(kind: type[Dictionary], folder: Path) -> None:
    """What is loaded encodes and decodes with the same bits as what was saved, knows where it comes from, and saves the same file."""
    dictionary = small(kind)
    dictionary.provenance = Provenance(
        model="m", hook="blocks.1.hook_resid_post", context=8, prepend_bos=True, skip_first=1, special_ids=(0,)
    )
    save_dictionary(dictionary, folder / "first")
    loaded = load_dictionary(folder / "first")
    save_dictionary(loaded, folder / "second")
    x, _ = planted(256, seed=6)
    before, after = dictionary.encode(x), loaded.encode(x)
    assert type(loaded) is type(dictionary)
    assert loaded.provenance == dictionary.provenance
    assert torch.equal(before.dense(), after.dense())
    assert torch.equal(dictionary.decode(before), loaded.decode(after))
    assert (folder / "first" / WEIGHTS_FILE).read_bytes() == (folder / "second" / WEIGHTS_FILE).read_bytes()


def check_honours_the_seed(kind: type[Dictionary], _folder: Path) -> None:
    """The same seed gives the same weights; another seed gives others, but where nothing is drawn."""
    first, again, other = (small(kind, seed).directions for seed in (0, 0, 1))
    assert torch.equal(first, again)
    if issubclass(kind, Trainable):
        assert not torch.allclose(first, other)


def check_gradients_reach_every_parameter(kind: type[Dictionary], _folder: Path) -> None:
    """The loss of a trainable dictionary moves all of its weights."""
    if not issubclass(kind, Trainable):
        return
    dictionary = kind.sized(D_IN, NUM_FEATURES, L0)
    x, _ = planted(512, seed=7)
    rows = training_rows(dictionary, x)
    dictionary.initialise(rows, torch.Generator().manual_seed(0))
    losses = dictionary.losses(rows, torch.arange(5), progress=1.0)
    torch.stack(list(losses.terms.values())).sum().backward()
    for name, parameter in dictionary.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
        assert float(parameter.grad.abs().max()) > 0, f"the gradient of {name} is zero"


def check_reports_what_it_does(kind: type[Dictionary], _folder: Path) -> None:
    """The reconstruction and the counts of `losses` are those of `encode` and `decode`, and no term depends on the inputs' units."""
    if not issubclass(kind, Trainable):
        return
    x, _ = planted(512, seed=8)
    terms: list[dict[str, float]] = []
    for unit in (1.0, 1000.0):
        dictionary = kind.sized(D_IN, NUM_FEATURES, L0)
        rows = training_rows(dictionary, unit * x)
        dictionary.initialise(rows, torch.Generator().manual_seed(0))
        losses = dictionary.losses(rows, torch.arange(5), progress=1.0)
        codes = dictionary.encode(unit * x)
        assert torch.allclose(losses.target - losses.residual, dictionary.decode(codes), rtol=1e-4, atol=1e-4 * unit)
        assert torch.equal(losses.active, (codes.dense() != 0).sum(0).float())
        terms.append({name: float(term.detach()) for name, term in losses.terms.items()})
    assert terms[0].keys() == terms[1].keys()
    assert all(abs(terms[0][name] - terms[1][name]) <= 1e-3 * abs(terms[0][name]) for name in terms[0]), terms


def check_finds_planted_features(kind: type[Dictionary], _folder: Path) -> None:
    """A few hundred steps find the directions that activations are made of, two a row, with as many active features.

    Mean largest |cosine| over 0.9; on rows that training has not seen, L0 within 15 % and FVU below 0.5, as those reach too whose
    activations an L1 penalty shrinks.
    """
    if not issubclass(kind, Trainable):
        return
    world = World(replace(_WORLD.config, l0=2))
    trainer = Trainer(kind.sized(D_IN, NUM_FEATURES, 2), TrainConfig(steps=400, batch_size=512, lr=3e-2, sample=4096))
    trainer.fit(lambda start: (training_rows(trainer.dictionary, batch.x) for batch in world.batches(512, seed=9, start_step=start)))
    cosines = functional.normalize(trainer.dictionary.directions, dim=1) @ world.directions.T
    assert float(cosines.abs().max(0).values.mean()) > 0.9
    fresh = world.batch(2048, seed=11).x
    with torch.no_grad():
        codes = trainer.dictionary.encode(fresh)
        error = fresh - trainer.dictionary.decode(codes)
    assert abs(float(codes.l0().mean()) / 2 - 1) < 0.15
    assert float(error.square().sum() / (fresh - fresh.mean(0)).square().sum()) < 0.5


def check_codes_name_a_feature_once(kind: type[Dictionary], _folder: Path) -> None:
    """An index occurs at most once a row among the slots in use, and lies within the dictionary."""
    dictionary = small(kind)
    codes = dictionary.encode(planted(64, seed=10)[0])
    used = Codes(indices=codes.indices, values=(codes.values != 0).float(), d_sae=codes.d_sae)
    assert int(codes.indices.min()) >= 0
    assert int(codes.indices.max()) < dictionary.d_sae
    assert float(used.dense().max()) <= 1


DICTIONARY_CHECKS: tuple[Callable[[type[Dictionary], Path], None], ...] = (
    check_is_registered_under_its_name,
    check_takes_any_leading_axes,
    check_stays_finite_on_odd_batches,
    check_accepts_bfloat16,
    check_decodes_linearly,
    check_survives_saving,
    check_honours_the_seed,
    check_gradients_reach_every_parameter,
    check_reports_what_it_does,
    check_finds_planted_features,
    check_codes_name_a_feature_once,
)
"""What every dictionary must do; each is called with the class and an empty folder."""
