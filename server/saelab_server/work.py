"""A `Lab` at the service of requests: the one module of the service that needs torch."""

from collections.abc import Iterator, Sequence

from saelab.conversations import Message
from saelab.lab import Lab, activations_on
from saelab.records import Completion, SteerRequest, SteerToken, TokenActivations
from saelab.run import Run
from saelab.steering import check_request, steer, stream_steer
from saelab_server.parts import Answer


class LabWork:
    """What the service asks of a `Lab`.

    Arguments:
    - `run`: the run that holds the dictionary.
    - `source`: the dictionary's name.
    """

    def __init__(self, run: Run, source: str) -> None:
        self._lab = Lab(run, source)

    def num_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._lab.subject.encode(text))

    def activations(self, text: str, features: Sequence[int] | None, top: int) -> TokenActivations:
        """Activations of some features, or of the strongest ones, on a text."""
        return activations_on(self._lab, text, features, top)

    def check(self, request: SteerRequest) -> None:
        """Refuses a request that cannot be carried out. Raises `Invalid` or `NotFound`."""
        check_request(request)

    def steer(self, request: SteerRequest) -> Completion:
        """The plain and the steered text."""
        return steer(self._lab, request)

    def stream_steer(self, request: SteerRequest) -> Iterator[SteerToken | Completion]:
        """The same token by token; the completion comes last."""
        return stream_steer(self._lab, request)

    def chat(self, messages: Sequence[Message], max_tokens: int, temperature: float, seed: int) -> Answer:
        """The subject's own answer in a conversation. Raises `Invalid` where it has no chat template or the conversation is too long."""
        subject = self._lab.subject
        prompt = subject.encode(subject.chat_text(messages, reply=True))
        steps = subject.generate(prompt, [{}], editable=[True] * len(prompt), max_tokens=max_tokens, temperature=temperature, seed=seed)
        ids = [token for (token,) in steps if token is not None]
        return Answer(text=subject.decode(ids), tokens_in=len(prompt), tokens_out=len(ids))
