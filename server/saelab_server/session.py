"""One request's work on one dictionary: its limits are checked first, then it waits for its turn on the model."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from saelab.errors import Invalid, NotFound
from saelab.records import ActivationRequest, Completion, Source, SteerRequest, SteerToken, TokenActivations
from saelab_server.state import State

MAX_TOP = 100
"""Features that one request for activations may ask for."""


def check_range(source: Source, features: Iterable[int]) -> None:
    """Raises `NotFound` for a feature that the dictionary does not have."""
    name = f"{source.model}/{source.source}"
    if source.d_sae is None:
        raise NotFound(f"{name} is still in training. Its features are there when it is done; its log is there now.")
    for feature in features:
        if not 0 <= feature < source.d_sae:
            raise NotFound(f"Feature {feature} is out of range: {name} has the features 0 to {source.d_sae - 1}.")


@dataclass(frozen=True)
class Session:
    """A dictionary, and the state that opens it."""

    state: State
    """The service's state."""
    source: Source
    """The dictionary that the request is about."""

    def activations(self, request: ActivationRequest) -> TokenActivations:
        """Activations on a text. Raises `Invalid` beyond the limits, `NotFound` for a feature out of range, `Busy` without a turn."""
        if not 1 <= request.top <= MAX_TOP or len(request.features or ()) > MAX_TOP:
            raise Invalid(
                f"{request.top} strongest and {len(request.features or ())} named features were asked for: 1 to {MAX_TOP} may be."
            )
        if not request.text:
            raise Invalid("The text is empty. Send some words.")
        check_range(self.source, request.features or ())
        with self.state.turn(self.source.model):
            work = self.state.work(self.source)
            self._check_length(work.num_tokens(request.text))
            return work.activations(request.text, request.features, request.top)

    def steer(self, request: SteerRequest) -> Completion:
        """Both texts at once. `check` the request first. Raises `Busy` without a turn."""
        with self.state.turn(self.source.model):
            return self.state.work(self.source).steer(request)

    def stream_steer(self, request: SteerRequest) -> Generator[SteerToken | Completion]:
        """Both texts token by token. `check` the request first. Raises `Busy` without a turn."""
        with self.state.turn(self.source.model):
            yield from self.state.work(self.source).stream_steer(request)

    def check(self, request: SteerRequest) -> None:
        """Refuses what one request may not ask for. Raises `Invalid` or `NotFound`."""
        limit = self.state.settings.max_tokens
        if not 1 <= request.max_tokens <= limit:
            raise Invalid(f"max_tokens is {request.max_tokens}. This service generates 1 to {limit} tokens a request.")
        check_range(self.source, [item.feature for item in request.interventions])
        with self.state.turn(self.source.model):
            work = self.state.work(self.source)
            work.check(request)
            self._check_length(work.num_tokens(request.prompt))

    def _check_length(self, num: int) -> None:
        limit = self.state.settings.max_prompt_tokens
        if num > limit:
            raise Invalid(f"The text has {num:,} tokens, but this service reads at most {limit:,} a request. Shorten the text.")
