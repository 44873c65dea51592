"""Many trainings in one pass: each as if it were alone, whatever happens to the process."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saelab.activations.memory import MemoryStore
from saelab.activations.shuffle import Shuffled
from saelab.checkpoint import CHECKPOINT_FILE
from saelab.describe import read_log
from saelab.dictionary import DICTIONARIES, WEIGHTS_FILE, Trainable
from saelab.errors import Conflict, Invalid
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.sinks import LOG_FILE
from saelab.sweep import Member, fit
from saelab.testing import D_IN, L0, NUM_FEATURES, planted, training_rows
from saelab.training import TrainConfig, Trainer

STEPS = 24
SIZE = 32
TRAINABLE = [name for name in DICTIONARIES if issubclass(DICTIONARIES[name], Trainable)]


class Killed(Exception):
    """Stands for whatever ends a process."""


def config(**changes):
    few = {"steps": STEPS, "batch_size": SIZE, "sample": 64, "log_every": 5, "checkpoint_every": 0.0, "dead_after": 128, "lr": 1e-2}
    return TrainConfig(**few | changes)


def rows(start):
    return iter(planted(STEPS * SIZE, seed=1)[0].split(SIZE)[start:])


def others(start):
    return iter(planted(STEPS * SIZE, seed=2)[0].split(SIZE)[start:])


def small_sweep(folder):
    """Members unlike in architecture, seed, width, k, learning rate, length and stream."""

    def member(name, dictionary, batches=rows, **changes):
        return Member(Trainer(dictionary, config(**changes), folder / name), batches)

    return [
        member("first", TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=4))),
        member("seed", TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=4)), seed=1),
        member("wide", BatchTopK(D_IN, BatchTopK.Config(d_sae=64, k=3)), lr=3e-3),
        member("short", JumpReLU.sized(D_IN, NUM_FEATURES, L0), steps=STEPS - 7),
        member("elsewhere", TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=5)), others),
    ]


def without_clock(folder):
    return [(row.step, {name: item for name, item in row.metrics.items() if name != "tokens_per_second"}) for row in read_log(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(small_sweep(folder))
    return folder


def assert_same(folder, whole):
    for item in whole.iterdir():
        assert (folder / item.name / WEIGHTS_FILE).read_bytes() == (item / WEIGHTS_FILE).read_bytes(), item.name
        assert without_clock(folder / item.name) == without_clock(item)
        assert sorted(file.name for file in (folder / item.name).iterdir()) == ["cfg.json", LOG_FILE, WEIGHTS_FILE]


def test_every_member_ends_as_if_it_had_been_trained_alone(whole, tmp_path):
    for member in small_sweep(tmp_path):
        member.trainer.fit(member.batches)
    assert_same(tmp_path, whole)


def test_a_stream_is_read_once_for_all_its_members(tmp_path):
    taken = []

    def counted(start):
        for step, batch in enumerate(rows(start), start):
            taken.append(step)
            yield batch

    fit([Member(Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(seed=seed)), counted) for seed in range(3)])
    assert taken == list(range(STEPS)), "what the sample was taken from is trained on, and made once"


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(1, 5 * STEPS), min_size=1, max_size=3))
def test_a_sweep_killed_between_any_two_writes_ends_with_the_same_bits(whole, tmp_path_factory, kills):
    folder = tmp_path_factory.mktemp("killed")
    for kill_at in kills:  # counted in checkpoints of single members
        left, saved = [kill_at], Trainer.save

        def save(trainer, left=left, saved=saved):
            if not left[0]:
                raise Killed
            left[0] -= 1
            saved(trainer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "save", save)
            with suppress(Killed):
                fit([member for member in small_sweep(folder) if not finished(member)])
    fit([member for member in small_sweep(folder) if not finished(member)])
    assert_same(folder, whole)


def finished(member):
    return (member.trainer.folder / WEIGHTS_FILE).is_file() and not (member.trainer.folder / CHECKPOINT_FILE).is_file()


SCRIPT = textwrap.dedent(
    """
    import sys, time, torch
    from pathlib import Path
    torch.set_num_threads(1)
    sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests/library"]
    import test_sweep

    plain = test_sweep.rows
    def slowly(start):
        for batch in plain(start):
            time.sleep(0.05)
            yield batch

    folder = Path(sys.argv[1])
    members = [
        test_sweep.Member(member.trainer, slowly if member.batches is plain else member.batches)
        for member in test_sweep.small_sweep(folder) if not test_sweep.finished(member)
    ]
    test_sweep.fit(members)
    """
)


def test_a_process_killed_without_warning_at_a_random_moment_ends_with_the_same_bits(tmp_path):
    folder, whole, root = tmp_path / "killed", tmp_path / "whole", str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), root], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline, begun = time.monotonic() + 120, len(read_log(folder / "first"))
        while len(read_log(folder / "first")) <= begun:
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline, "the training never began"
            time.sleep(0.01)
        time.sleep(0.3 * random.random())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / "first" / CHECKPOINT_FILE).is_file()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit([member for member in small_sweep(folder) if not finished(member)])
        fit(small_sweep(whole))
    finally:
        torch.set_num_threads(threads)
    assert_same(folder, whole)


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_architecture_goes_on_with_the_same_bits(name, tmp_path):
    def trainer(folder):
        return Trainer(DICTIONARIES[name].sized(D_IN, NUM_FEATURES, L0), config(), tmp_path / folder)

    x = training_rows(trainer("whole").dictionary, planted(STEPS * SIZE, seed=1)[0]).split(SIZE)
    trainer("whole").fit(lambda start: iter(x[start:]))
    killed, kill_at = trainer("killed"), random.Random(name).randrange(1, STEPS)
    step = killed.step

    def breaking(rows):
        if killed.steps_done == kill_at:
            raise Killed
        return step(rows)

    killed.step = breaking
    with pytest.raises(Killed):
        killed.fit(lambda start: iter(x[start:]))
    again = trainer("killed")
    again.fit(lambda start: iter(x[start:]))
    assert (tmp_path / "killed" / WEIGHTS_FILE).read_bytes() == (tmp_path / "whole" / WEIGHTS_FILE).read_bytes()
    assert without_clock(tmp_path / "killed") == without_clock(tmp_path / "whole")


def test_hooks_side_by_side_in_one_stream_are_as_good_as_a_stream_each(tmp_path):
    left, right = (planted(STEPS * SIZE, seed=seed)[0] for seed in (1, 2))
    both = torch.cat([left, right], dim=1).split(SIZE)
    names = {"left": slice(0, D_IN), "right": slice(D_IN, None)}

    def trainer(name, place):
        return Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path / place / name)

    def joined(start):
        return iter(both[start:])

    fit([Member(trainer(name, "joined"), joined, columns) for name, columns in names.items()])
    for name, x in (("left", left), ("right", right)):
        trainer(name, "alone").fit(lambda start, x=x: iter(x.split(SIZE)[start:]))
        assert (tmp_path / "joined" / name / WEIGHTS_FILE).read_bytes() == (tmp_path / "alone" / name / WEIGHTS_FILE).read_bytes()


def test_members_of_one_stream_need_one_batch_size():
    trainers = [Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(batch_size=size)) for size in (32, 64)]
    with pytest.raises(Invalid, match="need the same batch_size"):
        fit([Member(trainer, rows) for trainer in trainers])


def test_a_checkpoint_of_other_batches_is_refused(tmp_path):
    def trainer():
        return Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path)

    fit([Member(trainer(), rows, reads={"order": 0}, finished=lambda trainer: trainer.save())])
    (tmp_path / CHECKPOINT_FILE).unlink(missing_ok=True)
    broken = trainer()
    broken.begin({"straight_from_subject": False, "order": 0})
    broken.initialise(next(rows(0)))
    broken.step(next(rows(0)))
    broken.save()
    with pytest.raises(Conflict, match="order: 0, now 1"):
        fit([Member(trainer(), rows, reads={"order": 1})])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_stop_training_with_step_row_and_place(tmp_path, bad):
    x, _ = planted(STEPS * SIZE, seed=1)
    store = MemoryStore.of_vectors(x)
    stream = Shuffled(store, SIZE, 0)
    clean = torch.cat([batch for _, batch in zip(range(STEPS), stream(0), strict=False)])
    where = int((x == clean[7 * SIZE + 3]).all(1).nonzero()[0])
    x[where] = bad
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(checkpoint_every=60.0), tmp_path)
    said = rf"activations of step 8 are not finite: row 3 \(row {where} of the file\), and 0 others of {SIZE}"
    with pytest.raises(Invalid, match=said):
        trainer.fit(stream)
    assert [row.step for row in read_log(tmp_path)] == [5]


def test_a_sample_that_is_not_finite_is_told_the_same_way():
    x, _ = planted(STEPS * SIZE, seed=1)
    x[SIZE + 2] = torch.nan
    with pytest.raises(Invalid, match="activations of step 2 are not finite: row 2, and 0 others"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config()).fit(lambda start: iter(x.split(SIZE)[start:]))


def test_nothing_is_saved_of_a_training_that_has_diverged(tmp_path):
    x, _ = planted(STEPS * SIZE, seed=1)
    x[7 * SIZE] = torch.nan
    with pytest.raises(Invalid, match="not finite"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path).fit(lambda start: iter(x.split(SIZE)[start:]))
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(), tmp_path)
    trainer.begin({"straight_from_subject": False})
    assert trainer.steps_done == 7
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.dictionary.parameters())


def test_an_evaluation_is_logged_at_its_schedule_and_at_the_end(tmp_path):
    trainer = Trainer(
        TopK.sized(D_IN, NUM_FEATURES, L0), config(evaluate_every=7), tmp_path, lambda dictionary: {"width": float(dictionary.d_sae)}
    )
    trainer.fit(rows)
    found = {row.step: row.metrics.get("eval/width") for row in read_log(tmp_path)}
    assert found == {5: None, 7: NUM_FEATURES, 10: None, 14: NUM_FEATURES, 15: None, 20: None, 21: NUM_FEATURES, 24: NUM_FEATURES}
    assert all("fvu" in row.metrics for row in read_log(tmp_path))


@pytest.mark.parametrize(("every", "times"), [(None, 8), (0, 0)])
def test_an_evaluation_comes_ten_times_a_run_or_never(tmp_path, every, times):
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(evaluate_every=every), tmp_path, lambda dictionary: {"one": 1.0})
    trainer.fit(rows)
    assert sum("eval/one" in row.metrics for row in read_log(tmp_path)) == times  # every third step of 24


def test_an_evaluation_without_anything_to_evaluate_on_is_refused():
    with pytest.raises(Invalid, match="evaluate_every is 5"):
        Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config(evaluate_every=5))
