"""The step of two processes is the step of one."""

import pytest
import torch
from crew import Crew
from safetensors.torch import load_file
from together import SIZE, STEPS, made, train

from saelab.dictionary import DICTIONARIES, WEIGHTS_FILE, Trainable, load_dictionary
from saelab.distributed.group import DIVISIBLE, Group

TRAINABLE = [name for name in DICTIONARIES if issubclass(DICTIONARIES[name], Trainable)]


def assert_alike(one, two, folder_one, folder_two):
    assert [row[:2] for row in one] == [row[:2] for row in two]
    for (step, _, ours), (_, _, theirs) in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for key, number in ours.items():
            assert theirs[key] == pytest.approx(number, rel=1e-4, abs=1e-5), f"{key} at step {step}"
    expected, found = load_file(folder_one / WEIGHTS_FILE), load_file(folder_two / WEIGHTS_FILE)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), f"{name}: {(found[name] - tensor).abs().max()}"
    load_dictionary(folder_two)


@pytest.mark.parametrize("name", TRAINABLE)
def test_two_processes_with_half_the_rows_each_are_one_with_all(crew, tmp_path, name):
    one = train(None, 1, name, tmp_path / "one")
    two, _ = crew.run(train, 1, name, str(tmp_path / "two"))
    assert_alike(one, two, tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("name", DIVISIBLE)
def test_two_processes_with_half_the_features_each_are_one_with_all(crew, tmp_path, name):
    one = train(None, 1, name, tmp_path / "one")
    two, _ = crew.run(train, 2, name, str(tmp_path / "two"))
    assert_alike(one, two, tmp_path / "one", tmp_path / "two")


def test_a_process_may_hold_no_dead_feature_while_another_does(crew, tmp_path):
    one = train(None, 1, "topk", tmp_path / "one", (2, 3), dead_after=STEPS * SIZE)
    two, _ = crew.run(train, 2, "topk", str(tmp_path / "two"), (2, 3), STEPS * SIZE)
    assert any("auxk" in metrics for _, _, metrics in one)
    assert_alike(one, two, tmp_path / "one", tmp_path / "two")


def test_four_processes_divide_rows_and_features(tmp_path):
    four = Crew(4)
    one = train(None, 1, "batchtopk", tmp_path / "one")
    two, *_ = four.run(train, 2, "batchtopk", str(tmp_path / "two"))
    four.close()
    assert_alike(one, two, tmp_path / "one", tmp_path / "two")


def recordable(job):
    by_rows, by_features = Group(job, 1, torch.device("cpu")), Group(job, 2, torch.device("cpu"))
    return [ranks.recordable(made(name)()) for ranks in (by_rows, by_features) for name in ("topk", "abstopk", "batchtopk", "gated")]


def test_steps_may_be_recorded_where_no_process_asks_how_many_codes_it_has(crew):
    assert crew.run(recordable) == [[True, True, False, False, False, False, False, False]] * 2


def decides(job):
    group = Group(job, 1, torch.device("cpu"))
    return [group.decide(job.rank == 0) for _ in range(30)]


def test_the_clock_of_one_process_says_when_a_checkpoint_is_due(crew):
    one, two = crew.run(decides)
    assert one == two
    assert sum(one) == 3
