"""Texts to token ids, by the `tokenizers` library.

By default a byte-level BPE (Sennrich et al. 2016; GPT-2's bytes) is fitted to the training texts when the run
starts, and kept with the run. It knows every text: what it has not seen comes out in smaller pieces.

Axes: L tokens of a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from jepa_core.data.field_transforms.base import InvalidValue, ValueTransform
from jepa_core.errors import UserError
from jepa_core.types.sample import Field

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|start|>", "<|end|>"
"""Stand before and after each text."""


class Tokenize(ValueTransform):
    """A text as ids int64 [L], L different from text to text."""

    kinds = ("text",)

    class Config(ValueTransform.Config):
        tokenizer: str = "bpe"
        """`bpe`: fitted to the training texts; or the name of a Hugging Face tokenizer, or a path of its
        `tokenizer.json`."""
        vocabulary: int = Setting(4096, ge=258)
        """Tokens of a fitted BPE: 256 bytes, two for start and end, and the most frequent pieces."""
        length: int = Setting(64, ge=3)
        """Most tokens of a text, start and end included."""
        longer: Literal["refuse", "cut"] = "refuse"
        """What a longer text does: end the run with a line that names it, or lose its end."""
        lower: bool = False
        """Whether a fitted BPE makes no difference between capitals and small letters."""

    config: Config

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__(config, field)
        self.tokenizer: Tokenizer | None = (
            None if config.tokenizer == "bpe" else _pretrained(config.tokenizer)
        )
        vocabulary = self.tokenizer.get_vocab_size() if self.tokenizer else config.vocabulary
        self.output = Field("ids", (None,), vocabulary=vocabulary)

    def fit(self, values: Iterable[Any]) -> None:
        """Fits the BPE to the texts; a tokenizer that was given by name stays as it is."""
        if self.config.tokenizer == "bpe":
            self.tokenizer = _fit_bpe(map(self._text, values), self.config.vocabulary, self.config.lower)

    def state(self) -> dict[str, Any]:
        """The tokenizer in its library's own form."""
        assert self.tokenizer is not None, "not fitted"
        state: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes a tokenizer in its library's form. Raises UserError for one with too many tokens."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(json.dumps(dict(state)))
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"it is no tokenizer ({' '.join(str(error).split())[:120]})") from None
        size, most = tokenizer.get_vocab_size(), self.output.vocabulary
        if most is not None and size > most:
            raise UserError(f"its vocabulary has {size:,} tokens; the recipe's has {most:,}")
        self.tokenizer = tokenizer

    def __call__(self, value: Any, train: bool) -> Tensor:
        assert self.tokenizer is not None, "not fitted"
        text = self._text(value)
        ids = self.tokenizer.encode(text).ids
        if len(ids) > self.config.length:
            if self.config.longer == "refuse":
                raise InvalidValue(
                    f"{_quoted(text)} of {len(ids)} tokens; expected at most {self.config.length} (raise "
                    'length, or set longer = "cut")'
                )
            ids = [*ids[: self.config.length - 1], ids[-1]]
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        """The text of ids int64 [L], without start and end."""
        assert self.tokenizer is not None, "not fitted"
        text: str = self.tokenizer.decode(ids.tolist())
        return text

    @staticmethod
    def _text(value: Any) -> str:
        if not isinstance(value, str):
            raise InvalidValue(f"a {type(value).__name__}; expected a text")
        if not value.strip():
            raise InvalidValue("an empty text; expected words")
        return value


def _fit_bpe(texts: Iterable[str], vocabulary: int, lower: bool) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return tokenizer


def _pretrained(name: str) -> Tokenizer:
    """A tokenizer by its file or its name. Raises UserError where there is none."""
    from tokenizers import Tokenizer

    try:
        if Path(name).suffix == ".json" or Path(name).is_file():
            return Tokenizer.from_file(name)
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises plain Exceptions
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f'the tokenizer {name!r} cannot be loaded ({reason}); expected "bpe", a tokenizer.json, or a '
            "name on the Hugging Face hub"
        ) from None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
