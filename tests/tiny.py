"""Tiny random subjects of several decoder families, and a tokenizer of fifty words."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

from saelab.subject import Subject
from saelab.toy import toy_tokenizer

WIDTH = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
GROUPED = {**WIDTH, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8),
    "neox": GPTNeoXConfig(**WIDTH),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=50, n_positions=64),
}


class Words:
    """A tokenizer of fifty words, enough for a subject."""

    all_special_ids = (0, 1)
    bos_token_id = 1
    eos_token_id = 0
    chat_template = None

    def __len__(self) -> int:
        return 50

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids = [2 + int(word) for word in text.split()]
        return type("Encoding", (), {"input_ids": [1, *ids] if add_special_tokens else ids})

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(str(i - 2) for i in ids if not (skip_special_tokens and i < 2))

    def batch_decode(self, rows):
        return [self.decode(row) for row in rows]


def make_subject(family: str, config: Any = None) -> Subject:
    torch.manual_seed(0)
    return Subject(family, AutoModelForCausalLM.from_config(config or CONFIGS[family]), Words())


def save_model(config: Any, folder: Path) -> None:
    """A tiny random model with the tokenizer of the toy world, as a folder that transformers loads."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
