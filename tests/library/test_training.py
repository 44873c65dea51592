import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saelab.checkpoint import CHECKPOINT_FILE
from saelab.describe import read_log
from saelab.dictionary import DICTIONARIES, WEIGHTS_FILE, Trainable, load_dictionary
from saelab.errors import Conflict, Corrupt, Invalid
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.sinks import LOG_FILE
from saelab.testing import D_IN, L0, NUM_FEATURES, planted, training_rows
from saelab.training import TrainConfig, Trainer

STEPS = 30
GOLDEN = Path(__file__).parents[1] / "golden" / "training.json"


class Killed(Exception):
    """Stands for whatever ends a process."""


def batches(start, kill_at=None):
    x, _ = planted(STEPS * 64, seed=1)
    for step, batch in enumerate(x.split(64)):
        if step == kill_at:
            raise Killed
        if step >= start:
            yield batch


def config(**changes):
    few = {"steps": STEPS, "batch_size": 64, "sample": 128, "log_every": 4, "checkpoint_every": 0.0, "dead_after": 256}
    return TrainConfig(**few | {"lr": 1e-2} | changes)


def trained(kind, folder, **changes):
    trainer = Trainer(kind.sized(D_IN, NUM_FEATURES, L0), config(**changes), folder)
    trainer.fit(batches)
    return trainer


def without_clock(rows):
    return [(row.step, row.tokens, {name: item for name, item in row.metrics.items() if name != "tokens_per_second"}) for row in rows]


@pytest.fixture(scope="module", params=[TopK, JumpReLU], ids=["topk", "jumprelu"])
def uninterrupted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trained(request.param, folder)
    return request.param, folder


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3))
def test_a_run_killed_at_any_steps_ends_with_the_same_bits(uninterrupted, tmp_path_factory, kills):
    kind, whole = uninterrupted
    folder = tmp_path_factory.mktemp("killed")
    for kill_at in sorted(kills):
        trainer = Trainer(kind.sized(D_IN, NUM_FEATURES, L0), config(), folder)
        with pytest.raises(Killed):
            trainer.fit(lambda start, kill_at=kill_at: batches(start, kill_at))
        assert trainer.steps_done == (kill_at if kill_at >= 2 else 0)  # the first two batches are the sample
    trained(kind, folder)
    assert (folder / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    assert without_clock(read_log(folder)) == without_clock(read_log(whole))
    assert not (folder / CHECKPOINT_FILE).exists()


def test_a_process_killed_without_warning_ends_with_the_same_bits(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time, torch
        from pathlib import Path
        torch.set_num_threads(1)
        sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests/library"]
        from test_training import TopK, Trainer, batches, config, D_IN, NUM_FEATURES, L0

        def slowly(start):
            for batch in batches(start):
                time.sleep(0.1)
                yield batch

        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), Path(sys.argv[1])).fit(slowly)
        """
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", script, str(killed), root], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not (killed / LOG_FILE).is_file() or len(read_log(killed)) < 2:
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline, "the training never began"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (killed / CHECKPOINT_FILE).is_file()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trained(TopK, killed)
        trained(TopK, whole)
    finally:
        torch.set_num_threads(threads)
    assert (killed / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    assert [row.step for row in read_log(killed)] == [*range(4, STEPS, 4), STEPS]


def test_the_log_says_how_training_goes(uninterrupted):
    kind, folder = uninterrupted
    rows = read_log(folder)
    assert [row.step for row in rows] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert [row.tokens for row in rows] == [64 * row.step for row in rows]
    assert {"loss", "reconstruction", "fvu", "l0", "dead", "lr", "tokens_per_second"} <= rows[0].metrics.keys()
    assert rows[-1].metrics["fvu"] < rows[0].metrics["fvu"]
    assert rows[-1].metrics["lr"] < rows[3].metrics["lr"]
    if kind is TopK:
        assert all(0 < row.metrics["l0"] <= L0 for row in rows)
        assert rows[0].metrics["loss"] == pytest.approx(rows[0].metrics["reconstruction"])


def test_a_finished_folder_holds_a_dictionary_and_a_log_and_nothing_else(uninterrupted):
    kind, folder = uninterrupted
    assert sorted(item.name for item in folder.iterdir()) == ["cfg.json", LOG_FILE, WEIGHTS_FILE]
    assert isinstance(load_dictionary(folder), kind)


def test_what_killed_writers_left_goes_at_the_next_save_or_with_the_checkpoint(tmp_path):
    for name in (CHECKPOINT_FILE, WEIGHTS_FILE):
        left = tmp_path / f"{name}.part"
        left.mkdir()
        (left / ".tmpAbCdEf").write_bytes(b"half of the weights")
    (tmp_path / "cfg.json.part").write_bytes(b"{")  # as it was left before there were folders
    trained(TopK, tmp_path, checkpoint_every=1e9)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cfg.json", LOG_FILE, WEIGHTS_FILE]


def test_a_half_written_line_of_the_log_is_left_out(tmp_path):
    trained(TopK, tmp_path)
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"step": 31, "tok')
    assert read_log(tmp_path)[-1].step == STEPS
    assert read_log(tmp_path / "nowhere") == []


def test_training_anew_begins_a_new_log(tmp_path):
    trained(TopK, tmp_path)
    trained(TopK, tmp_path)
    assert len(read_log(tmp_path)) == 8


def test_a_checkpoint_of_another_config_is_refused_with_the_field(tmp_path):
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path)
    with pytest.raises(Killed):
        trainer.fit(lambda start: batches(start, 7))
    with pytest.raises(Conflict, match=r"train\.lr: 0\.01, now 0\.02"):
        trained(TopK, tmp_path, lr=0.02)
    with pytest.raises(Conflict, match=r"topk\.k: 4, now 5"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, 5), config(), tmp_path).fit(batches)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_with_its_name(tmp_path):
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path)
    with pytest.raises(Killed):
        trainer.fit(lambda start: batches(start, 7))
    newer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path)
    newer.dictionary.register_buffer("later", torch.zeros(()))
    with pytest.raises(Conflict, match=r"another version of saelab: it lacks weights\.later\. Delete it"):
        newer.fit(batches)


def test_a_broken_checkpoint_is_corrupt(tmp_path):
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"rubbish")
    with pytest.raises(Corrupt, match=r"checkpoint\.safetensors: not a checkpoint"):
        trained(TopK, tmp_path)


def test_the_seed_is_honoured():
    first, again, other = (trained(TopK, None, seed=seed).dictionary.encoder.detach() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(TopK, None)
    assert torch.equal(torch.rand(3), expected)


def test_the_learning_rate_rises_stays_and_falls():
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), TrainConfig(steps=100, lr=1.0, warmup=10))
    rates = []
    for step in range(100):
        trainer.steps_done = step
        rates.append(trainer.rate())
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_dead_features_are_counted_in_activations_not_steps():
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, 1), config(dead_after=128))
    x, _ = planted(64, seed=1)
    trainer.initialise(x)
    with torch.no_grad():
        trainer.dictionary.b_enc[0] = -1e3
    trainer.step(x[:60])
    trainer.step(x[:60])
    assert int(trainer.idle[0]) == 120
    trainer.step(x[:8])
    assert int(trainer.idle[0]) == 128
    assert trainer.row().metrics["dead"] > 0
    assert int(trainer.idle.min()) == 0


def test_bfloat16_reaches_nearly_the_same_loss():
    full, half = _losses("fp32"), _losses("bf16")
    assert half == pytest.approx(full, rel=0.02)


def _losses(precision):
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(precision=precision))
    x, _ = planted(STEPS * 64, seed=1)
    trainer.initialise(x)
    return [float(trainer.step(batch).terms["reconstruction"].detach()) for batch in x.split(64)]


def test_weights_stay_in_float32_under_bfloat16():
    trainer = trained(TopK, None, precision="bf16")
    assert {parameter.dtype for parameter in trainer.dictionary.parameters()} == {torch.float32}


def test_batches_in_bfloat16_are_read_as_they_are():
    x, _ = planted(STEPS * 64, seed=1)
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config())
    trainer.fit(lambda start: iter(x.bfloat16().split(64)[start:]))
    assert trainer.steps_done == STEPS


def test_batches_that_end_early_are_refused(tmp_path):
    x, _ = planted(64 * 10, seed=1)
    with pytest.raises(Invalid, match="The batches ended at step 10 of 30"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path).fit(lambda start: iter(x.split(64)[start:]))
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_batches_of_another_width_are_refused():
    with pytest.raises(Invalid, match=r"A batch has shape \[64, 23\]; the dictionary reads rows of 24 values"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config()).fit(lambda start: iter([torch.zeros(64, 23)]))


def test_no_batches_at_all_are_refused():
    with pytest.raises(Invalid, match="A batch has shape"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config()).fit(lambda start: iter([]))


def test_a_training_that_diverges_says_so():
    with pytest.raises(Invalid, match=r"Training diverged before step \d+: the loss is not finite. Lower the learning rate \(1e\+30\)"):
        trained(TopK, None, lr=1e30, clip=1e30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"decay": 1.5}, "decay is 1.5; it is a share of the run"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(Invalid, match=message):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(**changes))


def test_losses_follow_the_golden_trajectory():
    """Five losses of each architecture on planted features. Rewrite them with SAELAB_GOLDEN=write and look at the difference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: _losses_of(DICTIONARIES[name]) for name in DICTIONARIES if issubclass(DICTIONARIES[name], Trainable)}
    finally:
        torch.set_num_threads(threads)
    if os.environ.get("SAELAB_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for name, losses in golden.items():
        assert found[name] == pytest.approx(losses, rel=1e-3), name


def _losses_of(kind):
    trainer = Trainer(kind.sized(D_IN, NUM_FEATURES, L0), config(steps=25))
    rows = training_rows(trainer.dictionary, planted(25 * 64, seed=1)[0])
    trainer.initialise(rows)
    losses = []
    for step, batch in enumerate(rows.split(64), 1):
        trainer.step(batch)
        if step % 5 == 0:
            losses.append(round(float(trainer.sums["loss"]), 6))
            trainer.sums = {}
    return losses
