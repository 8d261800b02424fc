"""What a run may cost, before anything is bought: from plan, prompts, prices and lengths.

Nothing is asked for: it works offline. Tokens are estimated from characters, rather too many
than too few, as the budget reserves them; answers have the lengths that were measured. What the
label store holds already costs nothing, so a run may come out cheaper, never much dearer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from configs.settings import ModelPrice, ModelSettings, Settings
from data_contracts.heldout import FRESH_SHARE, benchmark_queries
from data_contracts.runs import Stage
from tasks.cost import estimate_tokens
from tasks.judge import JUDGE_OUTPUT_TOKENS

#: Mean characters of a written query, and of an answer with its reasoning: measured over the
#: 9,967 recorded queries (a test measures again).
QUERY_CHARACTERS: Final = 48
ANSWER_CHARACTERS: Final = 190
#: A training record's JSON around prompt, query and answer, with its escapes.
_RECORD_CHARACTERS = 270
#: Written queries that turn out to be duplicates or no queries, and are written again.
_WRITTEN_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Expected:
    """What one purpose of a stage is expected to buy.

    Attributes:
        model: its id, in the price list.
    """

    stage: Stage
    purpose: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float
    simulated: bool


def estimate(settings: Settings, own_queries: Sequence[str] | None = None) -> list[Expected]:
    """What a run of the profile is expected to buy, stage by stage.

    Args:
        settings: the profile.
        own_queries: the texts that take the place of written ones, if the run has some.

    Raises:
        ConfigError: the plan is wrong, a model has no price, or that of Provisioned Throughput
            is not confirmed.
    """
    return list(_Estimate(settings, own_queries).lines())


class _Estimate:
    def __init__(self, settings: Settings, own_queries: Sequence[str] | None) -> None:
        self._settings = settings
        self._cells = settings.plan() if own_queries is None else []
        if own_queries is None:
            self._queries = sum(cell.queries for cell in self._cells)
            self._query = float(QUERY_CHARACTERS)
        else:
            self._queries = len(own_queries)
            self._query = sum(map(len, own_queries)) / max(len(own_queries), 1)
        self._prompt = len(settings.prompt("router").text)

    def lines(self) -> Iterator[Expected]:
        models, deploy = self._settings.models, self._settings.deploy
        in_bedrock = "bedrock" in self._settings.distill.students
        if self._cells:
            yield self._writing()
        yield self._weighing()
        if in_bedrock:
            yield self._training()
            if deploy.mode == "provisioned":
                yield self._provisioned()
            yield self._routing("deploy", "smoke test", models.student, deploy.smoke_queries)
        yield from self._evaluation()
        if in_bedrock and deploy.mode == "stable":
            purpose = "stable deployment"
            yield self._routing("promote", purpose, models.student, deploy.smoke_queries)

    def _line(
        self,
        stage: Stage,
        purpose: str,
        model: ModelSettings,
        calls: int,
        asked: float,
        said: float,
    ) -> Expected:
        """A line of so many calls with so many characters each, asked and answered."""
        price = self._settings.price(model)
        inputs, outputs = (calls * estimate_tokens(ceil(n)) for n in (asked, said))
        usd = price.usd(inputs, outputs)
        return Expected(stage, purpose, model.id, calls, inputs, outputs, usd, price.simulated)

    def _routing(self, stage: Stage, purpose: str, model: ModelSettings, calls: int) -> Expected:
        asked = self._prompt + self._query
        return self._line(stage, purpose, model, calls, asked, ANSWER_CHARACTERS)

    def _weighing(self) -> Expected:
        settings = self._settings
        queries = self._queries
        if settings.distill.training_data == "prompts":
            queries = min(queries, settings.distill.labelled_examples)
        line = self._routing("label", "weights", settings.models.teacher, queries)
        if settings.label.batch_from is None or queries < settings.label.batch_from:
            return line
        price = settings.price(settings.models.teacher)
        usd = price.batch_usd(line.input_tokens, line.output_tokens)
        return replace(line, purpose="weights, in batches", usd=usd)

    def _writing(self) -> Expected:
        label = self._settings.label
        quoted = QUERY_CHARACTERS + 4  # in a list of JSON
        calls = told = written = 0
        for cell in self._cells:
            wanted = cell.queries * (1 + _WRITTEN_AGAIN)
            batches = ceil(wanted / label.batch_size)
            calls += batches
            told += sum(min(n * label.batch_size, label.told_before) for n in range(batches))
            written += ceil(wanted)
        request = len(self._settings.prompt("write_queries").text) + len(
            json.dumps({"task": "write_queries", **self._cells[0]._asdict(), "round": label.round})
        )
        asked = request + told * quoted / calls
        said = 16 + written * quoted / calls
        return self._line(
            "label", "writing queries", self._settings.models.teacher, calls, asked, said
        )

    def _training(self) -> Expected:
        settings = self._settings
        student, distill = settings.models.student, settings.distill
        price, teacher = settings.price(student), settings.distillation_price()
        record = self._prompt + self._query + ANSWER_CHARACTERS + _RECORD_CHARACTERS
        records, asked = self._queries * (1 - FRESH_SHARE), 0
        if distill.training_data == "prompts":
            asked = max(ceil(records) - distill.labelled_examples, 0)
        elif distill.training_data == "invocation_logs" and distill.invocation_logs:
            records = asked = distill.invocation_logs.expected_records
            if distill.invocation_logs.use_responses:
                teacher = None
        tokens = estimate_tokens(ceil(records * record))
        answers = asked * distill.max_response_tokens
        usd = price.training * distill.epochs * (tokens + answers) / 1000
        if teacher:
            usd += teacher.usd(asked * estimate_tokens(ceil(record)), answers)
        return Expected("distill", "training", student.id, 1, tokens, answers, usd, price.simulated)

    def _provisioned(self) -> Expected:
        usd, simulated = self._settings.provisioned_usd_per_hour()
        student = self._settings.models.student.customization_id
        return Expected("deploy", "model units, the first hour", student, 1, 0, 0, usd, simulated)

    def _evaluation(self) -> Iterator[Expected]:
        models, students = self._settings.models, self._settings.distill.students
        fresh = ceil(self._queries * FRESH_SHARE)
        held_out = len(benchmark_queries()) + fresh
        held_out_and_shown = held_out + len(self._settings.evaluate.demo_queries)
        asked: list[tuple[str, ModelSettings]] = [("base student", models.student)]
        if "bedrock" in students:
            asked.append(("distilled student", models.student))
        asked.append(("large baseline", models.large_baseline))
        for name, model in asked:
            yield self._routing("evaluate", name, model, held_out_and_shown)
        judged = len(asked) + ("local" in students) + (len(students) == 2)  # and the cascade
        rubric = len(self._settings.judge_metric.instructions)
        price: ModelPrice = self._settings.price(models.judge)
        calls = judged * held_out
        inputs = calls * estimate_tokens(ceil(rubric + self._query + 2 * ANSWER_CHARACTERS))
        outputs = calls * JUDGE_OUTPUT_TOKENS
        usd = price.usd(inputs, outputs)
        purpose = f"judging {judged} candidates"
        yield Expected(
            "evaluate", purpose, models.judge.id, calls, inputs, outputs, usd, price.simulated
        )


def estimate_text(settings: Settings, lines: Sequence[Expected]) -> str:
    """The estimate for people: a table, the total beside the budget, and what it rests on."""
    header = ("stage", "for", "model", "calls", "tokens in", "tokens out", "$")
    rows = [header, *map(_row, lines), _total(lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    text = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    text.insert(1, "  ".join("-" * width for width in widths))
    text.insert(-1, text[1])
    budget, total = settings.budget.usd_per_run, sum(line.usd for line in lines)
    text.append("")
    if total <= budget:
        text.append(f"The budget of ${budget:g} a run suffices (`budget.usd_per_run`).")
    else:
        text.append(
            f"The budget of ${budget:g} a run does not suffice: it would end in stage "
            f"{_stage_at(lines, budget)}. Raise `budget.usd_per_run`, or lower `label.size`."
        )
    per_hour, _ = settings.provisioned_usd_per_hour()
    if per_hour:
        text.append(
            f"Provisioned Throughput costs ${per_hour:,.2f} an hour, idle or not, until "
            "`reelroute cleanup` deletes it; the run's budget counts the first."
        )
    text.append(
        "Once there is a release, it is asked and judged beside the candidates: one candidate more."
    )
    text.append(f"Prices: {settings.price_source} (configs/prices.yaml).")
    text.append(
        "Tokens are estimates, rather too many than too few. What the label store holds, and "
        "stages that are skipped, cost nothing."
    )
    if any(line.simulated for line in lines):
        text.append("~ simulated: embedded models cost nothing.")
    return "\n".join(text)


def _row(line: Expected) -> tuple[str, ...]:
    return (
        *(line.stage, line.purpose, line.model),
        *(f"{number:,}" for number in (line.calls, line.input_tokens, line.output_tokens)),
        f"{'~' if line.simulated else ''}{line.usd:.4f}",
    )


def _total(lines: Sequence[Expected]) -> tuple[str, ...]:
    calls, inputs, outputs = (
        sum(numbers)
        for numbers in zip(
            *((line.calls, line.input_tokens, line.output_tokens) for line in lines), strict=True
        )
    )
    simulated = any(line.simulated for line in lines)
    usd = f"{'~' if simulated else ''}{sum(line.usd for line in lines):.4f}"
    return ("total", "", "", f"{calls:,}", f"{inputs:,}", f"{outputs:,}", usd)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if column < 3 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _stage_at(lines: Sequence[Expected], budget: float) -> Stage:
    """The stage in which the budget is used up."""
    spent = 0.0
    for line in lines:
        spent += line.usd
        if spent > budget:
            return line.stage
    return lines[-1].stage
