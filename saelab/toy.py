"""The toy world: a tiny subject that learns the toy sentences in seconds.

It stands in for the real thing wherever speed and certainty count more than size: tests, the tour notebook, a first try offline.
"""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Int
from torch import Tensor

from saelab.errors import Conflict, SaelabError
from saelab.run import write_atomically
from saelab.texts.toy import TOPICS, ToyTexts, toy_words
from saelab.values import from_json, to_json, value

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

_SPECIAL = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_ROLES = ("<user>", "<assistant>")
_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
_CONTEXT = 64


@value
class ToyRecipe:
    """How the toy subject is made; a cached one made by another recipe is made anew."""

    format: int = 1
    """Version of everything that is not a field here."""
    num_documents: int = 1200
    """Toy documents that it learns from."""
    d_model: int = 64
    """Width of its residual stream."""
    num_layers: int = 3
    """Layers."""
    steps: int = 200
    """Steps of training."""
    batch: int = 16
    """Windows of 64 tokens in a step."""
    seed: int = 0
    """Seed of weights and batches."""


@value
class ToyFacts:
    """What came out; written beside the weights."""

    recipe: ToyRecipe
    """How it was made."""
    loss: float
    """Mean next-token loss on the last tenth of the steps, nats."""
    unigram_entropy: float
    """What a model would lose that knows only how frequent each token is, nats."""


def subject_folder(folder: Path, recipe: ToyRecipe | None = None) -> Path:
    """The toy subject as an ordinary Hugging Face directory, made in about ten seconds if it is not there yet.

    The folder appears whole or not at all, so several processes may ask for it at once. Raises `Conflict` where it cannot be written, or
    where something else lies there.
    """
    recipe = recipe or ToyRecipe()
    if _made(folder) == recipe:
        return folder
    if folder.exists() and _made(folder) is None:
        raise Conflict(f"{folder} exists and is not a toy subject. Give a folder that does not exist yet.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as half:
            _write(Path(half) / "toy", recipe)
            shutil.rmtree(folder, ignore_errors=True)
            (Path(half) / "toy").rename(folder)
        for left in folder.parent.glob(f".{folder.name}-*"):  # by processes that were killed; one at work will find the folder
            shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        if _made(folder) != recipe:  # otherwise another process was faster
            raise Conflict(f"Cannot write the toy subject to {folder}: {error.strerror}.") from None
    return folder


def facts(folder: Path) -> ToyFacts:
    """What is known of a toy subject that was made."""
    file = folder / "toy.json"
    return from_json(ToyFacts, file.read_bytes(), where=str(file))


def _made(folder: Path) -> ToyRecipe | None:
    try:
        return facts(folder).recipe
    except (OSError, SaelabError):
        return None


def _write(folder: Path, recipe: ToyRecipe) -> None:
    tokenizer = toy_tokenizer()
    stream = _stream(tokenizer, recipe.num_documents)
    model, loss = _trained(recipe, stream, tokenizer)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    shares = torch.bincount(stream).double() / len(stream)
    entropy = float(torch.special.entr(shares).sum())
    write_atomically(folder / "toy.json", to_json(ToyFacts(recipe=recipe, loss=loss, unigram_entropy=entropy)))


def toy_tokenizer() -> "PreTrainedTokenizerFast":
    """Splits text into words and marks; a word after a space is another token than the same word at the start of a text.

    transformers is slow to import, so that is done only here and where the subject is trained.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*toy_words(), "tell", "me", "about"]
    tokens = [*_SPECIAL.values(), *_ROLES, ".", ",", "?", *(f"▁{word}" for word in words), *words]
    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(prepend_scheme="never")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=_CONTEXT,
        additional_special_tokens=list(_ROLES),
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
        **_SPECIAL,
    )


def _stream(tokenizer: "PreTrainedTokenizerFast", num_documents: int) -> Int[Tensor, " token"]:
    """The toy documents one after another: a half begins anywhere, a quarter are answers to questions about their topics."""
    texts: list[str] = []
    for number, document in enumerate(ToyTexts(num_documents=num_documents, seed=1).documents()):
        things, turn = TOPICS[document.domain]["thing"], number // len(TOPICS)
        asked = f"<user> tell me about the {things[turn % len(things)]}.<assistant> " if turn % 4 == 0 else ""
        begun = document.text.split(" ", turn % 40)[-1] if turn % 2 else document.text
        texts.append(f"<bos>{asked}{begun}<eos>")
    ids = cast("list[list[int]]", tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    return torch.tensor([token for document in ids for token in document])


def _trained(recipe: ToyRecipe, stream: Int[Tensor, " token"], tokenizer: "PreTrainedTokenizerFast") -> tuple["LlamaForCausalLM", float]:
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=recipe.d_model,
        intermediate_size=2 * recipe.d_model,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.05,
        bos_token_id=vocabulary["<bos>"],
        eos_token_id=vocabulary["<eos>"],
        pad_token_id=vocabulary["<pad>"],
    )
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _one_thread():
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=recipe.steps)
        losses: list[float] = []
        for _ in range(recipe.steps):
            begin = torch.randint(len(stream) - _CONTEXT, (recipe.batch, 1))
            tokens = stream[begin + torch.arange(_CONTEXT)]
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    last = losses[-max(1, recipe.steps // 10) :]
    return model.eval(), sum(last) / len(last)


@contextmanager
def _one_thread() -> Generator[None]:
    """Products as small as these lose by more threads, and their sums would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
