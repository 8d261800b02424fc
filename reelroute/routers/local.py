"""The local student: answers in this process, in a millisecond or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from reelroute.routers.base import Router, check_query
from reelroute.weights import RoutingWeights

if TYPE_CHECKING:
    from reelroute.student import Prediction, StudentModel


class ExplainedWeights(RoutingWeights):
    """Weights whose reasoning is computed when it is first asked for.

    Attributes:
        expected_error: the mean absolute error of a weight that the student expects of this
            answer, 0 to 0.5.
    """

    expected_error: float
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
        )
        weights._explain = explain
        return weights

    def __getattribute__(self, name: str) -> Any:
        if name in ("reasoning", "model_dump", "model_dump_json", "model_copy", "__eq__"):
            super().__getattribute__("_compute_reasoning")()
        return super().__getattribute__(name)

    def _compute_reasoning(self) -> None:
        private = self.__pydantic_private__
        explain = private.get("_explain") if private else None
        if private is not None and explain is not None:
            self.__dict__["reasoning"] = explain()
            private["_explain"] = None


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
        """
        from reelroute.student import StudentModel

        router = cls(StudentModel.load(folder))
        router.model.predict(["a first query takes longer"])
        return router

    def route(self, query: str) -> ExplainedWeights:
        """The student's weights of the query."""
        text = check_query(query)
        return self._explained(text, self.model.predict([text])[0])

    def route_many(self, queries: Sequence[str]) -> list[RoutingWeights]:
        """The weights of many queries, on all cores."""
        texts = [check_query(query) for query in queries]
        found = zip(texts, self.model.predict(texts), strict=True)
        return [self._explained(text, prediction) for text, prediction in found]

    def _explained(self, query: str, prediction: Prediction) -> ExplainedWeights:
        def explain() -> str:
            from reelroute.student.explain import attribute, sentence

            return sentence(prediction.weights, attribute(self.model, query))

        return ExplainedWeights.lazily(prediction, explain)
