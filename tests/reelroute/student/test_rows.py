from __future__ import annotations

import random

import pytest

from reelroute.student.errors import StudentError
from reelroute.student.rows import LabelledRow, data_sha256, split_dev

WEIGHTS = (0.7, 0.1, 0.1, 0.1)


def made(count: int) -> list[LabelledRow]:
    return [LabelledRow(f"query number {place}", WEIGHTS) for place in range(count)]


def test_the_split_has_about_the_share_and_loses_nothing() -> None:
    rows = made(4000)
    train, dev = split_dev(rows, 0.1)
    assert 350 < len(dev) < 450
    assert sorted(r.query for r in train + dev) == sorted(r.query for r in rows)


def test_a_query_stays_on_its_side_whatever_the_other_rows_and_their_order() -> None:
    rows = made(4000)
    dev = {row.query for row in split_dev(rows, 0.2)[1]}
    half = rows[:2000]
    random.Random(1).shuffle(half)
    assert {row.query for row in split_dev(half, 0.2)[1]} == dev & {row.query for row in half}


def test_case_and_spaces_do_not_put_a_query_on_both_sides() -> None:
    rows = [row for one in made(500) for row in (one, LabelledRow(one.query.upper(), WEIGHTS))]
    train, dev = split_dev(rows, 0.2)
    assert not {r.query.lower() for r in train} & {r.query.lower() for r in dev}


def test_a_small_set_gives_up_to_a_fifth_for_development() -> None:
    train, dev = split_dev(made(1000), 0.05)
    assert 160 < len(dev) < 240
    assert len(train) + len(dev) == 1000


def test_a_tiny_set_still_leaves_development_rows() -> None:
    train, dev = split_dev(made(60), 0.01)
    assert (len(train), len(dev)) == (40, 20)


def test_the_same_row_twice_is_on_one_side() -> None:
    train, dev = split_dev([*made(100), *made(100)], 0.2)
    assert not {r.query for r in train} & {r.query for r in dev}


def test_one_query_over_and_over_is_refused() -> None:
    with pytest.raises(StudentError, match="the same query"):
        split_dev([LabelledRow("dog", WEIGHTS)] * 60, 0.1)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(StudentError, match="49 labelled rows are too few"):
        split_dev(made(49), 0.1)


def test_the_hash_of_the_data_knows_no_order_but_every_change() -> None:
    rows = made(60)
    assert data_sha256(rows) == data_sha256(rows[::-1])
    assert data_sha256(rows) != data_sha256([*rows[:-1], LabelledRow("another", WEIGHTS)])
