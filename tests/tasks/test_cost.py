"""Cost: counted while it arises, stopped before the call that would pass the budget."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import ModelPrice
from data_contracts.runs import Cost
from reelroute.errors import BudgetExceeded
from tasks.cost import CHARACTERS_PER_TOKEN, CostMeter, estimate_tokens
from tests.support import in_threads

PRICE = ModelPrice(input=1.0, output=2.0, simulated=True)


def buy(meter: CostMeter, inputs: int = 100, outputs: int = 50) -> float:
    """One call whose estimate is what it costs: $0.2."""
    with meter.call(PRICE, inputs * CHARACTERS_PER_TOKEN, outputs) as bill:
        bill.settle(inputs, outputs)
    return bill.cost.usd


@given(characters=st.integers(0, 10**7))
def test_tokens_are_rather_overestimated(characters: int) -> None:
    assert estimate_tokens(characters) * CHARACTERS_PER_TOKEN >= characters
    assert (estimate_tokens(characters) - 1) * CHARACTERS_PER_TOKEN < max(characters, 1)


def test_what_was_bought_adds_up() -> None:
    meter = CostMeter(10)
    buy(meter)
    buy(meter)
    cost = meter.cost
    assert (cost.calls, cost.input_tokens, cost.output_tokens) == (2, 200, 100)
    assert cost.usd == pytest.approx(0.4)
    assert cost.simulated


def test_a_call_that_could_pass_the_budget_is_not_made() -> None:
    meter = CostMeter(0.5)
    buy(meter)
    buy(meter)
    with pytest.raises(BudgetExceeded, match=r"the budget of \$0\.5 a run would be passed"):
        buy(meter)
    assert meter.cost.calls == 2
    assert meter.cost.usd == pytest.approx(0.4)


def test_a_budget_that_is_just_enough_is_spent_whole() -> None:
    meter = CostMeter(0.6)
    for _ in range(3):
        buy(meter)
    assert meter.cost.usd == pytest.approx(0.6)


def test_what_earlier_stages_spent_counts() -> None:
    meter = CostMeter(0.5, spent_usd=0.4)
    with pytest.raises(BudgetExceeded, match=r"\$0\.4000 spent"):
        buy(meter)
    assert meter.cost == Cost()


def test_a_call_that_failed_costs_nothing_and_frees_what_it_reserved() -> None:
    meter = CostMeter(0.25)
    for _ in range(3):
        with pytest.raises(ConnectionError), meter.call(PRICE, 300, 50):
            raise ConnectionError
    assert buy(meter) == pytest.approx(0.2)


def test_what_is_in_flight_counts_against_the_budget() -> None:
    meter = CostMeter(0.3)
    with meter.call(PRICE, 300, 50), pytest.raises(BudgetExceeded, match=r"\$0\.2000 in flight"):
        buy(meter)


def test_the_budget_is_never_passed_however_many_threads_buy() -> None:
    meter = CostMeter(2.0)
    gate = threading.Barrier(16)

    def buy_together(_: int) -> float:
        gate.wait()
        return buy(meter)

    outcomes = in_threads(buy_together, range(64))
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceeded)]
    assert all(isinstance(outcome, float | BudgetExceeded) for outcome in outcomes)
    assert meter.cost.usd <= 2.0 + 1e-9
    assert meter.cost.calls + len(refused) == 64
    assert refused


def test_what_was_bought_otherwise_is_entered() -> None:
    meter = CostMeter(1)
    meter.add(Cost(calls=3, usd=0.9))
    with pytest.raises(BudgetExceeded):
        meter.check(0.2, "a job")
    meter.check(0.1, "a job")
    assert meter.cost.calls == 3


def test_the_message_says_what_would_be_bought_and_what_to_do() -> None:
    with pytest.raises(BudgetExceeded, match=r"customization job x may cost .*budget\.usd_per_run"):
        CostMeter(1).check(2, "customization job x")


def test_what_is_entered_under_a_name_counts_once() -> None:
    meter = CostMeter(1.0)
    for _ in range(2):
        meter.add(Cost(calls=1, usd=0.25), once="a job")
    meter.add(Cost(calls=1, usd=0.25), once="another job")
    assert (meter.cost.calls, meter.cost.usd) == (2, 0.5)


def test_what_is_held_back_for_a_job_cannot_be_spent_and_is_let_go_of_once() -> None:
    meter = CostMeter(1.0)
    let_go = meter.hold(0.9)
    assert meter.left_usd == pytest.approx(0.1)
    with pytest.raises(BudgetExceeded, match=r"\$0\.9000 in flight"):
        buy(meter)
    let_go()
    let_go()
    assert meter.left_usd == pytest.approx(1.0)
    assert buy(meter) == pytest.approx(0.2)


def test_batch_inference_costs_its_share_of_the_price_on_demand() -> None:
    half = ModelPrice(input=1.0, output=2.0, batch=0.5)
    assert half.batch_usd(1000, 1000) == pytest.approx(1.5)
    assert half.usd(1000, 1000) == pytest.approx(3.0)
