"""Trains a byte-level BPE tokenizer in the form Hugging Face and llama.cpp know.

Same special tokens, splitting pattern and chat template as BitNet b1.58 2B4T
(which are LLaMA 3's), only with fewer merges. Returns the bytes of
`tokenizer.json` and the dictionary of `tokenizer_config.json`; writes no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.tokenizer_parts import CHAT_TEMPLATE, PATTERN

BEGIN = "<|begin_of_text|>"
END = "<|end_of_text|>"
TURN_END = "<|eot_id|>"
SPECIAL_TOKENS = (BEGIN, END, TURN_END)


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer as data, and the ids a model needs to know.

    Attributes:
      json: bytes of `tokenizer.json`; the same corpus gives the same bytes.
      config: `tokenizer_config.json`.
      vocab_size: ids are 0 … vocab_size-1, special tokens included, none unused.
    """

    json: bytes
    config: dict
    vocab_size: int
    bos_id: int
    eos_id: int
    turn_end_id: int
    chat_template: str = CHAT_TEMPLATE
    generation: dict = field(default_factory=dict)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one int32 stream: begin, text, end for each document."""
        return encode_documents(self.json, texts, self.bos_id, self.eos_id)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 2048, max_length: int = 2048
) -> TrainedTokenizer:
    """Trains on `texts`.

    `max_length` is the context the model is made for; it goes into the config.

    Raises:
      BadData: the texts are too small to yield `vocab_size` tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        # Special tokens last, as in LLaMA 3; the trainer would put them first.
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        raise BadData(
            "train.vocab_size",
            f"the text yields {found} tokens, {vocab_size} were asked for",
            "ask for a smaller vocab_size, or give more text",
        )
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B:1", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return TrainedTokenizer(
        json=tokenizer.to_str(pretty=False).encode(),
        config=_config(ids, max_length),
        vocab_size=vocab_size,
        bos_id=ids[BEGIN],
        eos_id=ids[END],
        turn_end_id=ids[TURN_END],
        generation={"bos_token_id": ids[BEGIN], "eos_token_id": [ids[END], ids[TURN_END]]},
    )


def encode_documents(
    tokenizer_json: bytes, texts: Sequence[str], bos_id: int, eos_id: int
) -> np.ndarray:
    """Returns the int32 token stream of `texts`, each between `bos_id` and `eos_id`.

    Special tokens written out in a text are encoded as plain text, never as
    control tokens: the corpus is data.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    parts = [part for e in encodings for part in ([bos_id], np.asarray(e.ids, np.int32), [eos_id])]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)


def _config(ids: dict[str, int], max_length: int) -> dict:
    return {
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token, index in ids.items()
        },
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
