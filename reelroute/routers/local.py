"""The local student: answers in this process, in a millisecond or two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import PrivateAttr

from reelroute.errors import ReelRouteError
from reelroute.routers.base import Attempt, Deadline, Router, check_query
from reelroute.weights import RoutingWeights

if TYPE_CHECKING:
    from reelroute.student import Prediction, StudentModel

_log = logging.getLogger("reelroute")

#: Reading one of these asks for the reasoning. Everything that reads a model as a whole
#: (`model_dump`, a model around it, `dict()`, pickle) reads its `__dict__`.
_ASKS: Final = frozenset({"reasoning", "__dict__"})


class ExplainedWeights(RoutingWeights):
    """Weights whose reasoning is computed when it is first asked for.

    It is an ordinary model to all who read it as a whole; copies stay uncomputed, and equality
    computes it only where all else is equal.

    Attributes:
        expected_error: the mean absolute error of a weight that the student expects of this
            answer, 0 to 0.5.
        unknown_language: how likely the query is in, or mixed with, a language that the student
            doesn't know, 0 to 1; it raises the expected error.
    """

    expected_error: float
    unknown_language: float
    _explain: Callable[[], str] | None = PrivateAttr(default=None)

    @classmethod
    def lazily(cls, prediction: Prediction, explain: Callable[[], str]) -> ExplainedWeights:
        """A prediction's weights; `explain` gives their reasoning."""
        answer = prediction.weights
        weights = cls(
            visual=answer.visual,
            audio=answer.audio,
            transcription=answer.transcription,
            metadata=answer.metadata,
            router=answer.router,
            expected_error=prediction.expected_error,
            unknown_language=prediction.unknown_language,
        )
        weights._explain = explain
        return weights

    def renamed(self, router: str) -> ExplainedWeights:
        """The same answer under another router's name, its reasoning not computed."""
        return self.model_copy(update={"router": router})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, as of any model; what has not been computed stays so."""
        copied = self.__copy__()
        if update:
            _raw(copied).update(update)
            copied.__pydantic_fields_set__.update(update)
            if "reasoning" in update:
                copied._explain = None
        return copied

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        object.__setattr__(made, "__dict__", dict(_raw(self)))
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_fields_set__", set(self.__pydantic_fields_set__))
        object.__setattr__(made, "__pydantic_private__", {"_explain": self._explain})
        return made

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __getstate__(self) -> dict[Any, Any]:
        self._compute()
        return super().__getstate__()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExplainedWeights):
            return NotImplemented
        return self._known() == other._known() and self.reasoning == other.reasoning

    def __hash__(self) -> int:
        return hash(self._known())

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in tuple(_raw(self).items()):
            yield name, ... if name == "reasoning" and self._explain else value

    def __getattribute__(self, name: str) -> Any:
        if name in _ASKS:
            object.__getattribute__(self, "_compute")()
        return super().__getattribute__(name)

    def _known(self) -> tuple[tuple[float, ...], str, float, float]:
        """All but the reasoning."""
        return self.values(), self.router, self.expected_error, self.unknown_language

    def _compute(self) -> None:
        try:
            private = object.__getattribute__(self, "__pydantic_private__")
        except AttributeError:  # still being made
            return
        explain = private and private.get("_explain")
        if explain:
            try:
                reasoning = explain()
            except Exception:
                _log.exception("explaining an answer")
                reasoning = "The reasoning could not be computed: see the log."
            _raw(self)["reasoning"] = reasoning
            private["_explain"] = None


def _raw(weights: ExplainedWeights) -> dict[str, Any]:
    """The fields as they are, nothing computed."""
    fields: dict[str, Any] = object.__getattribute__(weights, "__dict__")
    return fields


class LocalRouter(Router):
    """Routes with a trained student of this process.

    Args:
        model: the student.
    """

    name = "local"

    def __init__(self, model: StudentModel) -> None:
        self.model = model

    @classmethod
    def of_folder(cls, folder: str | Path) -> LocalRouter:
        """The router of a model folder, warmed up.

        Raises:
            StudentError: the folder is not a student, or a file was altered.
            ReelRouteError: the packages that it needs are not installed.
        """
        try:
            from reelroute.student import StudentModel
        except ImportError as error:
            raise ReelRouteError(
                f"the local student needs more packages ({error.name} is missing): "
                "pip install 'reelroute[local]'"
            ) from error
        router = cls(StudentModel.load(folder))
        router.model.predict(["a first query takes longer"])
        return router

    def route(self, query: str) -> ExplainedWeights:
        """The student's weights of the query."""
        text = check_query(query)
        return self._explained(text, self.model.predict([text])[0])

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, on all cores."""
        return [*self.answer_many(queries)]

    def attempt_many(
        self, queries: Sequence[str], deadline: Deadline | None = None
    ) -> list[Attempt]:
        """As `route_many`: every query has an answer."""
        return [*self.answer_many(queries)]

    def answer_many(self, queries: Sequence[str]) -> list[ExplainedWeights]:
        """As `route_many`, each with the error that the student expects of it."""
        texts = [check_query(query) for query in queries]
        found = zip(texts, self.model.predict(texts), strict=True)
        return [self._explained(text, prediction) for text, prediction in found]

    def _explained(self, query: str, prediction: Prediction) -> ExplainedWeights:
        def explain() -> str:
            from reelroute.student.explain import attribute, sentence

            return sentence(prediction.weights, attribute(self.model, query))

        return ExplainedWeights.lazily(prediction, explain)
