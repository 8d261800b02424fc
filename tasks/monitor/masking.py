"""Queries of strangers made fit to be kept: personal data masked, what is no query refused.

Presidio's pattern recognizers (with checksums and, for telephone numbers, Google's numbering
plans) find e-mail addresses, telephone, card, account and social security numbers, and network
addresses. Names of people stay: they are what many searches for videos are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from data_contracts.monitoring import ProductionQuery
from data_contracts.queries import query_problem
from tasks.models import storable
from tasks.monitor.aggregate import Sampled

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

#: Recognizers are sure from here on; a telephone number without a word around it has 0.4.
_SCORE_MIN: Final = 0.4
#: What stands in a query in place of what was found.
_MASKS: Final = {
    "EMAIL_ADDRESS": "[email]",
    "PHONE_NUMBER": "[phone]",
    "CREDIT_CARD": "[card]",
    "IBAN_CODE": "[account]",
    "US_SSN": "[number]",
    "IP_ADDRESS": "[address]",
    "MAC_ADDRESS": "[address]",
}
#: Patterns need nothing of what a language model would tell of the text.
_NO_MODEL: Final[Any] = None


@cache
def _recognizers() -> tuple[EntityRecognizer, ...]:
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        MacAddressRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )
    from tldextract import TLDExtract

    # The list of domains that comes with the package: nothing is asked of the network.
    domains = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    return (
        OfflineEmailRecognizer(),
        PhoneRecognizer(),
        CreditCardRecognizer(),
        IbanRecognizer(),
        UsSsnRecognizer(),
        IpRecognizer(),
        MacAddressRecognizer(),
    )


def mask(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with personal data masked, and the kinds that were found, sorted."""
    found = [
        (result.start, result.end, result.entity_type)
        for recognizer in _recognizers()
        for result in recognizer.analyze(text, recognizer.supported_entities, _NO_MODEL) or ()
        if result.score >= _SCORE_MIN
    ]
    parts, position, kinds = [], 0, set()
    # Of overlapping findings the longer one that starts first.
    for start, end, kind in sorted(found, key=lambda one: (one[0], -one[1], one[2])):
        if start < position:
            # What an overlapping finding has beyond the one before is masked with it.
            position = max(position, end)
            continue
        parts += [text[position:start], _MASKS[kind]]
        position = end
        kinds.add(_MASKS[kind].strip("[]"))
    return "".join([*parts, text[position:]]), tuple(sorted(kinds))


def production_queries(
    sample: Iterable[Sampled], window: str
) -> tuple[Sequence[ProductionQuery], dict[str, int]]:
    """The sample's queries as they are kept, and how many were refused, by reason.

    Two texts that are equal after masking are one query.
    """
    kept: dict[str, ProductionQuery] = {}
    refused: dict[str, int] = {}
    for one in sample:
        if one.text is None:
            continue
        problem = query_problem(one.text)
        if problem:
            reason = "too long" if "characters long" in problem else problem
            refused[reason] = refused.get(reason, 0) + 1
            continue
        text, kinds = mask(" ".join(storable(one.text).split()))
        known = kept.get(text)
        kept[text] = ProductionQuery(
            query=text, window=window, seen=one.seen + (known.seen if known else 0), masked=kinds
        )
    return tuple(kept.values()), refused
