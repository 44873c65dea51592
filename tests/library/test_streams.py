import torch

from saelab.kernels.streams import aside, rejoin


class Stream:
    """A stream that keeps what it waited for."""

    def __init__(self):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_the_main_work_waits_once_for_what_was_asked_aside_and_never_for_nothing(monkeypatch):
    main, sides, device = Stream(), {"order": Stream(), "counts": Stream()}, torch.device("cuda", 7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr("saelab.kernels.streams._side", lambda device, lane: sides[lane])
    rejoin(device, "order")
    assert main.waited == []
    for lane in ("order", "counts"):
        with aside(device, lane):
            assert sides[lane].waited == [main]
    rejoin(device, "order")
    rejoin(device, "order")
    assert main.waited == [sides["order"]], "another lane is not waited for"
    rejoin(device, "counts")
    assert main.waited == [sides["order"], sides["counts"]]


def test_a_cpu_does_everything_in_turn():
    with aside(torch.device("cpu"), "sums"):
        found = torch.ones(3) + 1
    rejoin(torch.device("cpu"), "sums")
    assert found.tolist() == [2, 2, 2]
