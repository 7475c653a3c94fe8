"""CLIP's byte-pair tokenizer, from a bundle's `tokenizer.json` (Hugging Face's format): open_clip's ids, no PyTorch.

Cleaning is open_clip's, done here and not by the file's own normalizer, which can't say all of it: ftfy repairs the
text, HTML entities are resolved twice, white space collapses, and all is lower-cased.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import numpy as np

from pecore.errors import InputError

START, END = "<start_of_text>", "<end_of_text>"


@dataclass(frozen=True)
class ClipTokenizer:
    """A loaded tokenizer; `start` and `end` are the ids of the special tokens."""

    tokenizer: Any  # tokenizers.Tokenizer
    start: int
    end: int
    name: str = "CLIP BPE, 49408 tokens, lower-cased"

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end. A text that spells a special token gets it, as in open_clip."""
        specials = {START: self.start, END: self.end}
        ids: list[int] = []
        for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(clean(text)):
            # Not by the file's list of added tokens: those are found anywhere, open_clip's only where a word begins.
            ids += [specials[word]] if word in specials else [t.id for t in self.tokenizer.model.tokenize(word)]
        return ids

    def count(self, text: str) -> int:
        """Tokens that `text` takes, start and end included; beyond the context length it is cut."""
        return len(self.encode(text)) + 2

    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        """`[n, context_length]` int64, zero-padded; what is too long is cut, with the end-of-text token last."""
        ids = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(ids, texts):
            tokens = [self.start, *self.encode(text)[: context_length - 2], self.end]
            row[: len(tokens)] = tokens
        return ids


def clean(text: str) -> str:
    """`text` as open_clip's SimpleTokenizer cleans it."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def from_json(content: str) -> ClipTokenizer:
    """The tokenizer that the content of a `tokenizer.json` describes. Raises ValueError for another one's."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # its own errors are bare Exceptions
        raise ValueError(str(error)) from error
    start, end = (tokenizer.token_to_id(token) for token in (START, END))
    if start is None or end is None or tokenizer.pre_tokenizer is None:
        raise ValueError(f"it has no {START}, {END} or pre-tokenizer")
    return ClipTokenizer(tokenizer, start, end)


def read_tokenizer(path: Path) -> ClipTokenizer:
    """The tokenizer in a file.

    Raises:
        InputError: it can't be read, or is not CLIP's.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): convert the text tower again, `pecore convert --tower text`"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is no CLIP tokenizer ({error}): convert the text tower again, `pecore convert --tower text`"
        ) from error
