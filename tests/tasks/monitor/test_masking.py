"""Queries of strangers: personal data masked, what is no query refused, nothing kept twice."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tasks.monitor.aggregate import Sampled
from tasks.monitor.masking import mask, production_queries
from tests.support import corpus_rows


def sampled(*texts: str, seen: int = 1) -> list[Sampled]:
    return [Sampled(f"{number:03d}", text, seen, {}) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "masked", "kind"),
    [
        ("the mail from jane.doe@example.com", "the mail from [email]", "email"),
        ("call +44 20 7946 0958 tonight", "call [phone] tonight", "phone"),
        ("voicemail from (212) 555-0187", "voicemail from [phone]", "phone"),
        ("card 4111 1111 1111 1111 receipt", "card [card] receipt", "card"),
        ("transfer to DE89370400440532013000", "transfer to [account]", "account"),
        ("ssn 536-22-1234 on screen", "ssn [number] on screen", "number"),
        ("camera at 192.168.1.17", "camera at [address]", "address"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str, kind: str) -> None:
    assert mask(text) == (masked, (kind,))


@pytest.mark.parametrize(
    "text",
    [
        "Season 3 episode 7 of The Crown",
        "1984 to 1989, 3-2 in the final",
        "recorded on 12.03.2024 at 18:30",
        "CEO discussing quarterly earnings",
        "@home with the band",
        "",
    ],
)
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert mask(text) == (text, ())


def test_hardly_a_query_of_the_corpus_looks_like_personal_data() -> None:
    rows = corpus_rows(500)
    assert sum(mask(row.query)[0] != row.query for row in rows) <= 1


def test_masking_asks_nothing_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert mask("a@example.co.uk")[0] == "[email]"


def test_what_can_be_no_query_is_refused_and_counted() -> None:
    kept, refused = production_queries(
        sampled("a dog", "x" * 1001, "line\nbreak", "red \x1b[31m text", "  "), "w"
    )
    assert [query.query for query in kept] == ["a dog"]
    assert refused == {"too long": 1, "holds control characters": 2, "empty": 1}


def test_queries_that_are_equal_after_masking_are_one() -> None:
    (query,), refused = production_queries(
        sampled("mail to a@example.com", "mail to  b@example.org", seen=3), "w"
    )
    assert (query.query, query.seen, query.masked) == ("mail to [email]", 6, ("email",))
    assert query.source == "production"
    assert refused == {}
