"""The candidates of an evaluation: each is asked as it would be asked in production."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from configs.settings import ModelPrice, ModelSettings, Settings
from data_contracts.evaluation import (
    BASE_STUDENT,
    CURRENT_RELEASE,
    DISTILLED_STUDENT,
    LARGE_BASELINE,
    LOCAL_STUDENT,
)
from reelroute.errors import StageError
from reelroute.release import Reader, Release, fetch_model
from reelroute.routers import LocalRouter
from tasks.answer_text import answer_text
from tasks.answers import AnswerStore
from tasks.base import StageContext
from tasks.local_student import fetch_student
from tasks.models import Buyer, Model, ask_once
from tasks.pacing import pacer_of
from tasks.releases import POINTER_KEY, release_before
from tasks.storage import aws_access

#: What a model on this machine costs a query.
FREE = ModelPrice(input=0.0, output=0.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A candidate's answer to one query.

    Attributes:
        latency_ms: query to weights, in milliseconds; reasoning that is computed on demand is
            not in it.
        expected_error: the candidate's own estimate of the answer's mean error, if it has one.
    """

    text: str
    latency_ms: float
    input_tokens: int = 0
    output_tokens: int = 0
    expected_error: float | None = None


@dataclass(frozen=True)
class Candidate(ABC):
    """Something that routes queries.

    Attributes:
        name: its slug.
        label: what it is, in words.
        model: the model id, deployment or model hash that answers.
        price: of its tokens.
        concurrency: queries in flight together.
    """

    name: str
    label: str
    model: str
    price: ModelPrice
    concurrency: int

    @abstractmethod
    def ask(self, query: str) -> Asked:
        """The answer to one query; safe to call from many threads.

        Raises:
            AwsError: it can't be reached.
        """

    def prepare(self, queries: Sequence[str]) -> None:  # noqa: B027 (most have nothing to do)
        """Called before the queries are asked and timed."""

    def finish(self) -> None:  # noqa: B027 (most have nothing to do)
        """Called once all queries are answered."""


@dataclass(frozen=True)
class BedrockCandidate(Candidate):
    """A model behind Converse. Its answers are stored before they are used.

    Attributes:
        bedrock: the model.
        prompt: the system text that it is asked with.
        store: of its answers in this run: after a kill only the missing ones are asked.
        buyer: the attempt that pays.
    """

    bedrock: Model
    prompt: str
    store: AnswerStore
    buyer: Buyer

    def ask(self, query: str) -> Asked:
        """The stored answer, or a new one."""
        answer = ask_once(self.bedrock, self.prompt, query, self.store, self.buyer)
        return Asked(
            text=answer.texts[-1],
            latency_ms=answer.latency_ms,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
        )

    def finish(self) -> None:
        """Join the store's parts."""
        self.store.compact()


@dataclass(frozen=True)
class LocalCandidate(Candidate):
    """The local student, in this process.

    Attributes:
        texts: its answers with their reasoning, by query. Reasoning costs many times a route,
            so it is computed beforehand, on all cores, and kept for the cascade.
    """

    router: LocalRouter
    texts: dict[str, str] = field(default_factory=dict)

    def prepare(self, queries: Sequence[str]) -> None:
        """Compute the reasoning of all answers."""
        missing = [query for query in dict.fromkeys(queries) if query not in self.texts]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = pool.map(lambda query: answer_text(self.router.route(query)), missing)
            self.texts.update(zip(missing, answers, strict=True))

    def ask(self, query: str) -> Asked:
        """Its weights, timed without their reasoning."""
        started = time.perf_counter()
        weights = self.router.route(query)
        latency_ms = (time.perf_counter() - started) * 1000
        if query not in self.texts:
            self.prepare([query])
        return Asked(
            text=self.texts[query],
            latency_ms=latency_ms,
            expected_error=weights.expected_error,
        )


@dataclass(frozen=True)
class CascadeCandidate(Candidate):
    """The local student, and behind it a model that answers what it is not sure of."""

    local: LocalCandidate
    behind: BedrockCandidate
    pass_on_above: float

    def prepare(self, queries: Sequence[str]) -> None:
        """Compute the reasoning of the local answers."""
        self.local.prepare(queries)

    def ask(self, query: str) -> Asked:
        """The local answer, or the other one after it."""
        first = self.local.ask(query)
        if (first.expected_error or 0.0) <= self.pass_on_above:
            return first
        second = self.behind.ask(query)
        return Asked(
            text=second.text,
            latency_ms=first.latency_ms + second.latency_ms,
            input_tokens=second.input_tokens,
            output_tokens=second.output_tokens,
            expected_error=first.expected_error,
        )


class Candidates:
    """Makes the candidates of a stage; `folder` holds the files of local models meanwhile."""

    def __init__(self, stage: StageContext, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._client = aws_access(stage.settings).client("bedrock-runtime")
        self._texts: dict[str, dict[str, str]] = {}  # by a local model's fingerprint

    @property
    def _settings(self) -> Settings:
        return self._stage.settings

    def of_run(self) -> list[Candidate]:
        """Base student, distilled and local student, large baseline and the current release."""
        models, upstream = self._settings.models, self._stage.upstream
        student, baseline = models.student, models.large_baseline
        prompt = self._settings.prompt("router").text
        found: list[Candidate] = [
            self._bedrock(BASE_STUDENT, f"{student.id}, not distilled", student.id, student, prompt)
        ]
        deployment = upstream["deploy"].resources.get("deployment_arn")
        if deployment:
            label = f"{student.id}, distilled"
            found.append(self._bedrock(DISTILLED_STUDENT, label, deployment, student, prompt))
        local = self._folder / "run"
        local.mkdir()
        if fetch_student(self._stage.storage, upstream["distill"], local):
            fingerprint = upstream["distill"].resources["local_fingerprint"]
            found.append(self._local(LOCAL_STUDENT, local, fingerprint))
        found.append(self._bedrock(LARGE_BASELINE, baseline.id, baseline.id, baseline, prompt))
        release = release_before(self._stage.run)
        if release:
            found.append(self._release(release))
        return found

    def cascade(
        self, name: str, local: LocalCandidate, behind: BedrockCandidate, pass_on_above: float
    ) -> CascadeCandidate:
        """The cascade of two candidates."""
        return CascadeCandidate(
            name=name,
            label=f"{local.label}; expecting an error above {pass_on_above:.3f}: {behind.label}",
            model=f"{local.model} + {behind.model}",
            price=behind.price,
            concurrency=1,
            local=local,
            behind=behind,
            pass_on_above=pass_on_above,
        )

    def _bedrock(
        self, name: str, label: str, model_id: str, settings: ModelSettings, prompt: str
    ) -> BedrockCandidate:
        stage = self._stage
        folder = f"answers-a{stage.attempt}" if stage.forced else "answers"
        price = self._settings.price(settings)
        store = AnswerStore(stage.storage, stage.run.key(f"evaluation/{folder}/{name}"))
        buyer = Buyer(stage.run.run_id, stage.attempt)
        pacer = pacer_of(self._settings, model_id)
        before = buyer.bought(store.values(), price)  # by a start that was killed
        stage.meter.add(before, once=f"answers of {name}")
        return BedrockCandidate(
            name=name,
            label=label,
            model=model_id,
            price=price,
            concurrency=self._settings.evaluate.concurrency,
            bedrock=Model(self._client, model_id, settings, price, stage.meter, pacer),
            prompt=prompt,
            store=store,
            buyer=buyer,
        )

    def _local(self, name: str, folder: Path, fingerprint: str) -> LocalCandidate:
        return LocalCandidate(
            name=name,
            label="local student, in process",
            model=f"local {fingerprint[:12]}",
            price=FREE,
            concurrency=1,
            router=LocalRouter.of_folder(folder),
            texts=self._texts.setdefault(fingerprint, {}),
        )

    def _release(self, release: Release) -> Candidate:
        """The current release, asked as its own router asks."""
        label = f"release {release.version}"
        local = behind = None
        if release.router != "bedrock" and release.local:
            read = Reader(aws_access(self._settings))
            uri = self._stage.storage.uri(POINTER_KEY)
            folder = fetch_model(release.local, uri, read, self._folder / "release")
            local = self._local(CURRENT_RELEASE, folder, release.local.fingerprint)
        if release.router != "local" and release.bedrock:
            model = release.bedrock
            settings = self._settings.models.student.model_copy(
                update={"max_tokens": model.max_tokens}
            )
            behind = self._bedrock(
                CURRENT_RELEASE, label, model.deployment_arn, settings, release.prompt.text
            )
        if local and behind and release.pass_on_above is not None:
            return self.cascade(CURRENT_RELEASE, local, behind, release.pass_on_above)
        candidate = local or behind
        if candidate is None:
            raise StageError(f"release {release.version} names no model that can be asked")
        return candidate
