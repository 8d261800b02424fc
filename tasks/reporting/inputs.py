"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from data_contracts.evaluation import EvaluationSummary, Prediction
from data_contracts.queries import Frozen
from reelroute.errors import ConfigError

UsdPer1kTokens = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PublishedCandidate(Frozen):
    """One model's figures as the source prints them.

    Attributes:
        judge: the source's judge score, 1 to 5.
        usd_per_1k_input_tokens, usd_per_1k_output_tokens: lowest and highest price given.
    """

    name: str = Field(min_length=1)
    judge: float = Field(ge=1, le=5)
    mean_latency_ms: Milliseconds
    usd_per_1k_input_tokens: tuple[UsdPer1kTokens, UsdPer1kTokens]
    usd_per_1k_output_tokens: tuple[UsdPer1kTokens, UsdPer1kTokens]
    output_format: Literal["consistent JSON", "inconsistent"]

    @model_validator(mode="after")
    def _prices_ascend(self) -> PublishedCandidate:
        for low, high in (self.usd_per_1k_input_tokens, self.usd_per_1k_output_tokens):
            if low > high:
                raise ValueError(f"price range {low}–{high} of {self.name!r}: put the lower first")
        return self


class SearchSteps(Frozen):
    """The steps of one search other than the router, for the figure of its latency.

    Attributes:
        note: where the times come from, printed beside the figure.
        milliseconds: configured time of each step, in the order of the search.
    """

    note: str = Field(min_length=1)
    milliseconds: dict[str, Milliseconds] = Field(min_length=1)


class PublishedFigures(Frozen):
    """`configs/published.yaml`: figures by others, and the configured steps of a search.

    Attributes:
        source: who published the figures, and under which title.
        comparability: why they can't be compared one to one with a run's own.
        notes: what a reader must know of single figures.
        candidates: the models, in the order of the source.
        search_steps: the configured steps.
    """

    source: str = Field(min_length=1)
    comparability: str = Field(min_length=1)
    notes: tuple[str, ...] = ()
    candidates: tuple[PublishedCandidate, ...] = Field(min_length=1)
    search_steps: SearchSteps

    @classmethod
    def from_document(cls, document: Any, name: str = "published.yaml") -> PublishedFigures:
        """The figures from an already parsed YAML document.

        Raises:
            ConfigError: naming the file, the first wrong key and what is wrong with it.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ConfigError(
                f"{name}: {where}: {first['msg']}. Mend that key and run the stage again."
            ) from error


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """What the candidates answered to one chosen query.

    Attributes:
        query: the query's text.
        answers: candidate to the raw text of its answer.
    """

    query: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReportInput:
    """Everything that the evaluation report shows, apart from the charts.

    Attributes:
        run_id: the run that was evaluated.
        environment: the profile's environment, such as `local`.
        summary: the scores of all candidates.
        predictions: each candidate's answers, both readings.
        demo_answers: answers to chosen queries, shown side by side.
        published: figures published by others.
        latency_steps: step to milliseconds, for the steps of a search other than the router.
        labelled_by: who wrote the reference weights.
        reference_note: what a reader must know of the reference weights.
    """

    run_id: str
    environment: str
    summary: EvaluationSummary
    predictions: Mapping[str, Sequence[Prediction]]
    demo_answers: Sequence[DemoAnswer]
    published: PublishedFigures
    latency_steps: Mapping[str, float]
    labelled_by: str
    reference_note: str
