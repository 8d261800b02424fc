"""Simulated tokens: the embedded models have no tokenizer to bill by."""

from __future__ import annotations

from typing import Final

#: About what language models' tokenizers make of English.
CHARACTERS_A_TOKEN: Final = 4


def simulated_tokens(characters: int) -> int:
    """The number of tokens that a text of this many characters is counted as."""
    return -(-characters // CHARACTERS_A_TOKEN)
