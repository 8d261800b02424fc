"""Cost: counted while it arises, stopped before the call that would pass the budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from configs.settings import ModelPrice
from data_contracts.runs import Cost
from reelroute.errors import BudgetExceeded

#: Characters of English text that make a token, a low estimate (so that costs are not
#: underestimated before a call).
CHARACTERS_PER_TOKEN = 3


def estimate_tokens(characters: int) -> int:
    """About how many tokens a text of so many characters has, rather too many than too few."""
    return -(-characters // CHARACTERS_PER_TOKEN)


class Bill:
    """What one call turned out to cost."""

    def __init__(self, price: ModelPrice) -> None:
        self.price = price
        self.cost = Cost(simulated=price.simulated)

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """Enter the tokens that the service counted."""
        self.cost = Cost(
            calls=1,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            usd=self.price.usd(input_tokens, output_tokens),
            simulated=self.price.simulated,
        )


class CostMeter:
    """Counts a run's spending over many threads.

    Args:
        budget_usd: what the run may cost.
        spent_usd: what its earlier stages and attempts have cost.
    """

    def __init__(self, budget_usd: float, spent_usd: float = 0.0) -> None:
        self.budget_usd = budget_usd
        self._before = spent_usd
        self._reserved = 0.0
        self._cost = Cost()
        self._entered: set[str] = set()
        self._lock = threading.Lock()

    @property
    def cost(self) -> Cost:
        """What was bought through this meter."""
        return self._cost

    @property
    def left_usd(self) -> float:
        """What may still be spent, calls in flight at their most."""
        with self._lock:
            return max(self.budget_usd - self._before - self._cost.usd - self._reserved, 0.0)

    def __reduce__(self) -> tuple[type[CostMeter], tuple[float]]:
        # In another process it is a purse of its own, with what is left.
        return CostMeter, (self.left_usd,)

    def recount(self, cost: Cost) -> None:
        """Enter what was bought in all, where others bought, too."""
        with self._lock:
            self._cost = cost

    def add(self, cost: Cost, once: str = "") -> None:
        """Enter what was bought otherwise.

        Args:
            cost: what it cost.
            once: a name; what was entered under it before is not entered again.
        """
        with self._lock:
            if once and once in self._entered:
                return
            self._entered.add(once)
            self._cost = self._cost + cost

    def hold(self, usd: float) -> Callable[[], None]:
        """Hold back what a job in AWS may cost yet; gives what lets go of it again."""
        held = [usd]
        with self._lock:
            self._reserved += usd

        def let_go() -> None:
            with self._lock:
                self._reserved -= sum(held)
                held.clear()

        return let_go

    def check(self, usd: float, what: str) -> None:
        """Raise BudgetExceeded if buying for so much more would pass the budget."""
        with self._lock:
            self._check(usd, what)

    @contextmanager
    def call(self, price: ModelPrice, characters: int, max_tokens: int) -> Iterator[Bill]:
        """Reserve the most that a call can cost, then settle what it did cost.

        Raises:
            BudgetExceeded: the call could pass the budget; it is not made.
        """
        most = price.usd(estimate_tokens(characters), max_tokens)
        with self._lock:
            self._check(most, "the next call")
            self._reserved += most
        bill = Bill(price)
        try:
            yield bill
        finally:
            with self._lock:
                self._reserved -= most
                self._cost = self._cost + bill.cost

    def _check(self, usd: float, what: str) -> None:
        spent = self._before + self._cost.usd
        if spent + self._reserved + usd > self.budget_usd + 1e-12:
            raise BudgetExceeded(
                f"the budget of ${self.budget_usd:g} a run would be passed: ${spent:.4f} spent, "
                f"${self._reserved:.4f} in flight, {what} may cost ${usd:.4f}. Raise "
                "`budget.usd_per_run` in the profile and run again: nothing is asked twice"
            )
