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
    main, side, device = Stream(), Stream(), torch.device("cuda", 7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr("saelab.kernels.streams._side", lambda device: side)
    rejoin(device)
    assert main.waited == []
    with aside(device):
        assert side.waited == [main]
    rejoin(device)
    rejoin(device)
    assert main.waited == [side]
