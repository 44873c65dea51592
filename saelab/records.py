"""What leaves the process: the values that the feature store gives, the API sends and the dashboard draws.

A feature's identity everywhere is `model/source/index`: the model's id, the dictionary's name, the row of its decoder.
"""

from dataclasses import field
from typing import Literal

from saelab.errors import Invalid
from saelab.values import value

Unit = Literal["max_act", "raw"]
"""How a strength is read: as multiples of the feature's largest activation on the corpus, or as a bare activation."""


@value
class FeatureId:
    """The identity of a feature. Written `model/source/index`."""

    model: str
    """Id of the subject, such as `smollm2-135m-instruct`."""
    source: str
    """Name of the dictionary in its run, such as `14-res-topk`."""
    index: int
    """Row of the dictionary's decoder, from 0."""

    def __str__(self) -> str:
        return f"{self.model}/{self.source}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "FeatureId":
        """The identity written in `text`. Raises `Invalid` for any other form."""
        parts = text.split("/")
        if len(parts) != 3 or not parts[2].isdigit():
            raise Invalid(f"{text!r} is not a feature. Write model/source/index, such as smollm2-135m-instruct/14-res-topk/12.")
        return cls(model=parts[0], source=parts[1], index=int(parts[2]))


@value
class Estimate:
    """A number with its uncertainty."""

    value: float
    """The estimate itself."""
    low: float | None = None
    """Lower end of the 95 % interval; none where no sampling made the number."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    n: int
    """How many independent items (documents, tokens, windows) it was computed from."""


@value
class Score:
    """A number about a label or a feature, with all that is needed to judge it."""

    scorer: str
    """Registered name of the scorer, such as `rule_detection`."""
    metric: str
    """What the number is, such as `auroc`."""
    value: float | None
    """The score; none where it failed."""
    low: float | None = None
    """Lower end of the 95 % interval (bootstrap over documents)."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    n: int = 0
    """Windows it was scored on."""
    null: float | None = None
    """What luck gives: the mean of the same score with labels of other features, or another null that the scorer names."""
    lift: float | None = None
    """`value` minus `null`."""
    lift_low: float | None = None
    """Lower end of the 95 % interval of the lift: above 0 means better than a label of another feature."""
    lift_high: float | None = None
    """Upper end of the 95 % interval of the lift."""
    insufficient: bool = False
    """True where so few windows fired that the number says little."""
    failed: str | None = None
    """Why there is no number; none where there is one."""
    seed: int = 0
    """Seed of the sampling."""
    failures: float = 0.0
    """Share of the answers of a model that could not be read; each counts as wrong."""
    model: str = ""
    """Model that the score was made with: one behind an endpoint, an embedder, a subject; empty where there was none."""
    prompt: str = ""
    """Hash of the prompt that the model was given; empty where there was none."""
    negatives: tuple[str, ...] = ()
    """Kinds of the silent windows that it was held against: `random`, `same_token`, `neighbour`, and `near_meaning` (nearest by MiniLM) or,
    without it, `near_miss` (most words in common); empty where there were none."""
    made_by: str = ""
    """The scorer's own configuration, as JSON."""


@value
class Label:
    """A short text about a feature: what it fires on and what it promotes."""

    text: str
    """The label as shown."""
    input_clause: str
    """What the feature fires on; empty where no simple rule was found."""
    output_clause: str = ""
    """Which tokens the feature promotes; empty where the logit lens shows nothing clear."""
    labeller: str
    """Who made it: the registered name of a labeller, such as `rules`, or the author of an imported label."""
    predicate: str = ""
    """The executable rule behind the input clause, as JSON; empty where there is none."""
    found: bool = True
    """False where the labeller says that it found no simple rule."""
    model: str = ""
    """Model that wrote it: one behind an endpoint; empty where there was none."""
    prompt: str = ""
    """Hash of the prompt that the model was given; empty where there was none."""
    made_by: str = ""
    """The labeller's own configuration, as JSON."""
    scores: tuple[Score, ...] = ()
    """Scores of this label on held-out documents."""


@value
class Example:
    """A stretch of one document with one feature's activations."""

    document: int
    """Number of the document in the corpus."""
    domain: str
    """Kind of text that the document is, such as `dialogue`."""
    split: str
    """Which split the document belongs to: explain, select or score."""
    position: int
    """Position in the document of the first token shown."""
    tokens: tuple[str, ...]
    """The tokens as text."""
    values: tuple[float, ...]
    """The feature's activation at each token; 0 where it is silent or where the token does not count."""
    peak: int
    """Index of the strongest token within `tokens`."""


@value
class ExampleBand:
    """Examples from one band of the feature's activation strength."""

    name: str
    """How the band is called, such as `top` or `60-80 %`."""
    low: float
    """Smallest window maximum in the band."""
    high: float
    """Largest window maximum in the band."""
    share: float
    """Share of the feature's active windows that fall in this band."""
    examples: tuple[Example, ...]
    """Some windows of the band."""


@value
class Histogram:
    """Counts of a feature's activations on a logarithmic axis."""

    edges: tuple[float, ...]
    """Ends of the bins, one more than there are counts; activations in raw units."""
    counts: tuple[int, ...]
    """Active tokens in each bin."""


@value
class TokenValue:
    """A token with a number: a logit, a count, an activation."""

    token: str
    """The token as text."""
    id: int
    """Its id in the subject's vocabulary."""
    value: float
    """The number."""


@value
class Neighbour:
    """Another feature of the same dictionary that is close: by its decoder direction, its encoder direction, or by when it fires."""

    index: int
    """The other feature."""
    similarity: float
    """Cosine of the two directions; for features that fire together, segments in which both fire over segments in which either does."""
    label: str | None = None
    """The other feature's label."""


@value
class FeatureRow:
    """A feature as a row of the table."""

    index: int
    """Row of the dictionary's decoder."""
    label: str | None
    """Text of its label; none where it has not been labelled."""
    label_found: bool | None = None
    """False where the labeller found no simple rule."""
    score: float | None = None
    """Held-out score of the label."""
    lift: float | None = None
    """Score minus its shuffled-label null."""
    lift_low: float | None = None
    """Lower end of the 95 % interval of the lift."""
    density: float
    """Share of tokens on which it fires."""
    max: float
    """Largest activation on the corpus, raw units."""
    mean: float
    """Mean activation where it fires."""
    dead: bool
    """True where it never fired on the corpus."""
    top_tokens: tuple[str, ...]
    """Tokens on which it fires most, at most five."""
    tags: tuple[str, ...] = ()
    """Cheap properties: dead, dense, token, positional, ..."""


@value
class Feature:
    """All about one feature: what its page shows."""

    id: FeatureId
    """Who it is."""
    label: Label | None
    """Its label with scores."""
    scores: tuple[Score, ...] = ()
    """Scores of the feature itself, which need no label: how well a label could do at all."""
    density: Estimate
    """Share of tokens on which it fires."""
    max: float
    """Largest activation on the corpus, raw units."""
    mean: float
    """Mean activation where it fires."""
    dead: bool
    """True where it never fired on the corpus."""
    tags: tuple[str, ...]
    """Cheap properties: dead, dense, token, positional, ..."""
    histogram: Histogram
    """Activations where it fires."""
    top_logits: tuple[TokenValue, ...]
    """Tokens whose logit the decoder direction raises most (logit lens)."""
    bottom_logits: tuple[TokenValue, ...]
    """Tokens whose logit it lowers most."""
    peak_tokens: tuple[TokenValue, ...]
    """Tokens at which its active windows peak, with counts."""
    bands: tuple[ExampleBand, ...]
    """Examples: the strongest first, then a spread over the activation quantiles."""
    neighbours: tuple[Neighbour, ...]
    """Features with the closest decoder directions."""
    previous: int | None
    """Index of the feature before this one."""
    next: int | None
    """Index of the feature after this one."""


@value
class FeatureMap:
    """Where the features of a dictionary lie on a plane: those with close decoder directions lie close."""

    x: tuple[float, ...]
    """Place of each feature from left to right; empty where no map was made, and so are the others."""
    y: tuple[float, ...]
    """Place of each feature from bottom to top."""
    density: tuple[float, ...]
    """Share of tokens on which each feature fires."""
    score: tuple[float | None, ...]
    """Held-out score of each feature's label; none where it has no score."""
    tag: tuple[int, ...]
    """The first tag of each feature as its place in `tags`; -1 for none."""
    tags: tuple[str, ...]
    """The tags that occur."""


@value
class FiringDocument:
    """A document in which a feature fires."""

    key: str
    """Name of the document, unique in the corpus."""
    count: int
    """Tokens on which it fires."""
    example: Example
    """Where it fires most strongly, with some text around."""


@value
class FiringDocuments:
    """A page of the documents that fire a feature, the strongest activation first."""

    items: tuple[FiringDocument, ...]
    """The documents."""
    total: int
    """How many documents fire the feature, of those that were kept."""
    kept: int
    """Documents whose activations were kept."""
    next_cursor: str | None
    """Give this as `cursor` to get the next page; none at the end."""


@value
class FeaturePage:
    """A page of the feature table."""

    items: tuple[FeatureRow, ...]
    """The rows."""
    total: int
    """How many features match the filters."""
    next_cursor: str | None
    """Give this as `cursor` to get the next page; none at the end."""


@value
class Quality:
    """How well a dictionary stands for the subject's activations, on held-out documents.

    Next-token losses (`ce_...`, `kl...`) are null for a dictionary of bare vectors, which come from no text.
    """

    fvu: Estimate
    """Fraction of variance unexplained: sum of squared error over sum of squares around the mean."""
    l0: Estimate
    """Mean number of active features a token."""
    ce_clean: Estimate | None = None
    """Next-token loss of the subject itself, nats."""
    ce_spliced: Estimate | None = None
    """Next-token loss with the reconstruction in place of the activation, nats."""
    ce_increase: Estimate | None = None
    """`ce_spliced` minus `ce_clean`, nats."""
    ce_mean_ablated: Estimate | None = None
    """Next-token loss with every activation replaced by the mean, nats."""
    ce_zero_ablated: Estimate | None = None
    """Next-token loss with every activation replaced by zero, nats."""
    ce_recovered: Estimate | None = None
    """(ce_mean_ablated - ce_spliced) / (ce_mean_ablated - ce_clean)."""
    kl: Estimate | None = None
    """Mean KL divergence from the subject's prediction to the prediction with the reconstruction, nats."""
    kl_recovered: Estimate | None = None
    """1 - KL with the reconstruction / KL with the mean."""
    dead: Estimate
    """Share of features that never fired on the tokens looked at."""
    dense: Estimate
    """Share of features that fire on more than a tenth of the tokens."""
    controls: dict[str, float]
    """FVU of baselines at the same L0 on the same tokens: `random`, `pca`, ..."""
    control_ce_increase: dict[str, float]
    """Increase of the next-token loss with the same baselines spliced in, nats."""
    hook_fvu: dict[str, float] = field(default_factory=dict[str, float])
    """FVU at each hook of a dictionary that has several; empty for one hook."""
    concept_auroc: Estimate | None = None
    """AUROC of SCAR's first feature: tokens of held-out documents that carry its concept against those of the others; 1/2 is chance."""
    concept_document_auroc: Estimate | None = None
    """The same for whole documents, each by the feature's largest activation in it."""


@value
class Source:
    """A dictionary in a run."""

    model: str
    """Id of the subject it belongs to."""
    source: str
    """Its name."""
    run: str
    """The run that holds it."""
    architecture: str | None
    """Registered name of the architecture, such as `topk`; none until its training is done."""
    hook: str | None
    """Where it reads, such as `blocks.14.hook_resid_post`; none until its training is done."""
    d_in: int | None
    """Width of the activations; none until its training is done."""
    d_sae: int | None
    """Number of features; none until its training is done."""
    stages: tuple[str, ...]
    """Stages that are done: train, evaluate, collect, label, score."""
    quality: Quality | None = None
    """Its quality; none until evaluated."""
    num_labelled: int = 0
    """Features whose labeller found a rule."""


@value
class RunSummary:
    """A run: a directory of artifacts."""

    name: str
    """Folder name under the runs folder."""
    model: str | None
    """Id of the subject; none before the first stage."""
    stages: tuple[str, ...]
    """Stages of the run that are done: read, capture."""
    num_tokens: int
    """Tokens of its corpus."""
    sources: tuple[Source, ...]
    """The dictionaries in it."""
    problem: str | None = None
    """Why the run cannot be read; none where it can."""


@value
class SearchHit:
    """A feature found by the words of its label or its tokens, or by the meaning of its label."""

    id: FeatureId
    """Which feature."""
    row: FeatureRow
    """What the table shows of it."""
    similarity: float | None = None
    """Cosine of the label's meaning and that of the words asked for; none in a search by words."""


@value
class LogRow:
    """One line of a training log."""

    step: int
    """Optimiser steps done."""
    tokens: int
    """Activations seen."""
    seconds: float
    """Seconds of training so far."""
    metrics: dict[str, float]
    """Named numbers: losses, fvu, l0, dead share, learning rate, tokens a second."""


@value
class ActivationRequest:
    """A text, and the features whose activations on it are wanted."""

    text: str
    """The text."""
    features: tuple[int, ...] | None = None
    """The features; none for those that are strongest on the text."""
    top: int = 10
    """How many features to give where none are named, 1 to 100."""


@value
class TokenActivations:
    """Activations of features on a text of the user."""

    tokens: tuple[str, ...]
    """The tokens as text."""
    counted: tuple[bool, ...]
    """False at tokens that the dictionary does not read (the first position, special tokens)."""
    features: tuple["FeatureActivation", ...]
    """The features asked for, or the strongest ones, strongest first."""


@value
class FeatureActivation:
    """One feature's activations on a text."""

    index: int
    """The feature."""
    label: str | None
    """Its label."""
    max: float
    """Largest activation on the text."""
    values: tuple[float, ...]
    """Activation at each token."""


@value
class Intervention:
    """A change of one feature during a forward pass, written as a difference so that what the dictionary cannot explain stays."""

    feature: int
    """The feature that is changed."""
    op: Literal["add", "clamp", "scale", "ablate"]
    """add: x + s·d. clamp: x + (s - z)·d. scale: x + (s - 1)·z·d. ablate: x - z·d. z is the feature's activation, d its direction."""
    strength: float = 1.0
    """s. For `scale` a bare factor; for `add` and `clamp` in the given unit; without meaning for `ablate`."""
    unit: Unit = "max_act"
    """How `strength` is read for `add` and `clamp`."""


@value
class SteerRequest:
    """What to generate, and which features to change meanwhile."""

    prompt: str
    """The text to go on from, or the user's message when `chat` is on."""
    interventions: tuple[Intervention, ...]
    """Changes, all computed from the same unedited activation and added up."""
    chat: bool = False
    """Put the prompt through the model's chat template as a user message."""
    max_tokens: int = 60
    """Tokens to generate at most, 1 to 512."""
    temperature: float = 0.0
    """0 takes the likeliest token; above it, both texts are drawn with the same random numbers."""
    seed: int = 0
    """Seed of the random numbers."""
    edit_prompt: bool = True
    """Change the prompt's tokens too, not only the generated ones. The first position and special tokens are never changed."""


@value
class SteerToken:
    """One generated token of one of the two texts."""

    text: Literal["base", "steered"]
    """Which text it belongs to."""
    token: str
    """The token as text."""
    id: int
    """Its id in the vocabulary."""


@value
class Completion:
    """The two texts side by side, and how strong the change was."""

    base: str
    """What the subject writes."""
    steered: str
    """What it writes under the interventions."""
    first_difference: int | None
    """Index of the first generated token that differs; none where the texts are the same."""
    dose: float
    """Mean over edited positions of the change's norm over the activation's norm."""
    kl: float
    """Mean KL divergence between the steered and the plain prediction along the steered text, nats a token."""
    interventions: tuple[Intervention, ...]
    """The interventions as applied."""
    hook: str
    """Where they were applied."""
    num_tokens: int
    """Tokens generated in the steered text."""
    seconds: float
    """Seconds it took."""
