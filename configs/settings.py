"""The profile, typed: one YAML a profile, every default here, unknown keys are errors.

Order of precedence, the strongest last: the defaults below, the profile, the run's overrides,
environment variables (`REELROUTE__LABEL__SIZE=1000` sets `label.size`).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reelroute.errors import ConfigError
from reelroute.release import Prompt
from reelroute.routers.bedrock import REQUEST_METADATA

CONFIGS: Final = Path(__file__).parent
#: The checkout: paths in a profile are relative to it.
ROOT: Final = CONFIGS.parent
DEFAULT_PROFILE: Final = "configs/local.yaml"
ENVIRONMENT_PREFIX: Final = "REELROUTE__"

M = TypeVar("M", bound=BaseModel)
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=20)]
Share = Annotated[float, Field(ge=0, le=1)]
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
RoleArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/\S+$")]
AccountId = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
#: A KMS key's id, its ARN, or an alias. Source: `customModelKmsKeyId` in the service's API model.
KmsKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^(arn:aws(-[^:]+)?:kms:[a-zA-Z0-9-]*:\d{12}:(key/[a-zA-Z0-9-]{36}|"
        r"alias/[a-zA-Z0-9/_-]+)|[a-zA-Z0-9-]{36}|alias/[a-zA-Z0-9/_-]+)$",
        max_length=2048,
    ),
]
S3Uri = Annotated[
    str,
    StringConstraints(
        pattern=r"^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[-!_*'().a-z0-9A-Z]+)*/?$",
        max_length=1024,
    ),
]
SubnetId = Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-z]+$", max_length=32)]
SecurityGroupId = Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-z]+$", max_length=32)]


class _Section(BaseModel):
    # Numbers to texts: YAML reads `label.round=9` as a number.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True
    )


class AwsSettings(_Section):
    """How AWS is reached. Without `profile`, credentials come from the standard AWS chain."""

    region: str
    endpoint_url: str | None = None
    credentials_file: Path | None = None
    profile: str | None = None
    connect_timeout_seconds: float = Field(default=10, gt=0)
    read_timeout_seconds: float = Field(default=120, gt=0)
    #: Attempts of one call inside boto3, before the task's own retries.
    max_attempts: int = Field(default=4, ge=1)


class StorageSettings(_Section):
    """Where runs, answers and releases live."""

    bucket: BucketName
    encryption: Literal["AES256", "aws:kms"] = "AES256"
    kms_key_id: KmsKey | None = None
    #: The account that must own the bucket: S3 refuses every call if another does.
    bucket_owner: AccountId | None = None


class PrefectSettings(_Section):
    """Which Prefect server is used; without a URL, the one of Prefect's own settings."""

    api_url: str | None = None
    #: Where flow runs work: a file of deployments/work_pools/.
    work_pool: Literal["process", "docker", "ecs"] = "process"


class ModelSettings(_Section):
    """A model that is asked through Converse. `price` names another entry of the price list."""

    id: str = Field(min_length=1)
    max_tokens: int = Field(default=300, gt=0)
    temperature: float = Field(default=0.0, ge=0, le=1)
    price: str | None = None

    @property
    def price_id(self) -> str:
        """The model's entry in the price list."""
        return self.price or self.id


class StudentSettings(ModelSettings):
    """The student; `customization_id` is its name as the base of a customization job."""

    customization_id: str = Field(min_length=1)


class ModelsSettings(_Section):
    """Who teaches, who learns, who is compared with, who judges."""

    teacher: ModelSettings
    student: StudentSettings
    large_baseline: ModelSettings
    judge: ModelSettings
    #: The teacher named in the distillation job; empty where the student is fine-tuned.
    distillation_teacher: str = ""


class LabelSettings(_Section):
    """How queries are written and labelled."""

    #: The plan: queries wanted by channel, difficulty and domain.
    plan: Path = Path("configs/label_plan.csv")
    #: Scales the plan to this many queries; null takes it as it stands.
    size: int | None = Field(default=None, ge=100, le=200_000)
    #: A new round writes new queries; the same round is never paid twice.
    round: str = Field(default="1", min_length=1, max_length=40)
    #: Queries asked for in one call.
    batch_size: int = Field(default=25, ge=1, le=100)
    #: Earlier queries of a cell that the teacher is told of, the newest.
    told_before: int = Field(default=200, ge=0)
    #: Answers of a cell that bring nothing new before the plan counts as unsatisfiable.
    max_empty_batches: int = Field(default=2, ge=1)
    #: Calls to the teacher that are in flight together.
    concurrency: int = Field(default=8, ge=1, le=64)
    #: Queries that one task labels.
    shard_size: int = Field(default=500, ge=1)
    #: Word-set Jaccard index from which a query counts as a duplicate of an earlier one.
    near_duplicate: Share = 0.9
    #: More than this share in quarantine fails the stage.
    max_quarantined: Share = 0.02
    #: The answer's limit in tokens where the teacher writes queries.
    write_max_tokens: int = Field(default=2000, gt=0)
    write_temperature: float = Field(default=0.8, ge=0, le=1)
    #: From so many unanswered queries on they are weighed by batch inference, at about half the
    #: price and within hours instead of minutes; null asks all of them on demand.
    batch_from: int | None = Field(default=None, ge=100)
    #: Queries of one batch job; the service takes 100 to 50,000 records a file.
    batch_file_records: int = Field(default=10_000, ge=100, le=50_000)
    #: The role that the service reads the queries and writes the answers with.
    batch_role_arn: RoleArn | None = None
    batch_poll_seconds: float = Field(default=60, gt=0)
    #: After so many hours the service gives a batch job up and leaves what it has.
    batch_timeout_hours: int = Field(default=24, ge=24, le=168)
    #: How long a batch job is waited for; it goes on without us.
    batch_wait_hours: float = Field(default=26, gt=0)

    @model_validator(mode="after")
    def _batch_needs_a_role(self) -> LabelSettings:
        if self.batch_from is not None and self.batch_role_arn is None:
            raise ValueError(
                "`batch_from` is set without `batch_role_arn`: name the role that Bedrock's batch "
                "inference may assume, or set `batch_from` to null"
            )
        return self

    @property
    def at_work(self) -> int:
        """Queries that are worked on together: asked, or answered and on the way to the store.

        A kill may repeat so many calls. Storing takes no place from the calls in flight.
        """
        return self.concurrency + self.concurrency // 4


class ValidateSettings(_Section):
    """What a labelled set as a whole must fulfil."""

    query_words_max: int = Field(default=80, ge=1)
    query_characters_max: int = Field(default=1000, ge=1)
    reasoning_words_min: int = Field(default=5, ge=1)
    reasoning_words_max: int = Field(default=80, ge=1)
    #: Absolute difference allowed between a channel's or difficulty's share and the plan's.
    balance_tolerance: Share = 0.05
    #: Share of the rows that may carry the same reasoning.
    reasoning_repeat_max: Share = 0.01


class VpcSettings(_Section):
    """The network that a customization job works in."""

    subnets: tuple[SubnetId, ...] = Field(min_length=1, max_length=16)
    security_groups: tuple[SecurityGroupId, ...] = Field(min_length=1, max_length=5)


MetadataText = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9\s._:/=+$@-]{0,256}$")]


class MetadataFilter(_Section):
    """Which logged calls are taken, by one key of the metadata that they were made with."""

    equals: dict[MetadataText, MetadataText] | None = Field(None, min_length=1, max_length=1)
    not_equals: dict[MetadataText, MetadataText] | None = Field(None, min_length=1, max_length=1)

    @model_validator(mode="after")
    def _is_one(self) -> MetadataFilter:
        if (self.equals is None) == (self.not_equals is None):
            raise ValueError("a filter has either `equals` or `not_equals`")
        return self


class InvocationLogsSettings(_Section):
    """Production traffic in Bedrock's invocation logs, which the job reads by itself.

    The router marks its own calls, the pipeline's evaluation does not: the filter that is set
    here by default keeps the held-out queries, which evaluation asks, out of the training.
    """

    uri: S3Uri
    #: Learn the logged answers, which must then be the distillation teacher's; otherwise only
    #: the prompts are taken, and the teacher answers them anew.
    use_responses: bool = False
    filters: tuple[MetadataFilter, ...] = Field(
        (MetadataFilter(equals=dict(REQUEST_METADATA)),), max_length=16
    )
    #: A call must pass all filters, or any of them.
    match: Literal["all", "any"] = "all"
    #: So many calls are expected to pass: what the job's cost is estimated by. The service takes
    #: 15,000 at most.
    expected_records: int = Field(default=15_000, ge=100, le=15_000)


class DistillSettings(_Section):
    """The students: `bedrock` learns in a customization job, `local` is trained here."""

    students: tuple[Literal["bedrock", "local"], ...] = Field(("bedrock", "local"), min_length=1)
    #: What the job is: fine-tuning needs no teacher in the service, only labels.
    customization: Literal["distillation", "fine_tuning"] = "distillation"
    #: What the job learns from: every label; the queries alone, which the service has its teacher
    #: label, and a few labels; or what production asked.
    training_data: Literal["labelled", "prompts", "invocation_logs"] = "labelled"
    #: With `prompts`: so many training queries are labelled, as examples of good answers.
    labelled_examples: int = Field(default=10, ge=1, le=1000)
    #: With `invocation_logs`: where the logs are.
    invocation_logs: InvocationLogsSettings | None = None
    #: Settings of the local student's training that differ from `TrainSettings`' defaults.
    local: dict[str, Any] = Field(default_factory=dict)
    role_arn: RoleArn
    hyperparameters: dict[str, str] = {}
    max_response_tokens: int = Field(default=300, gt=0)
    #: Encrypts the custom model; without it, a key of the service's own does.
    kms_key_id: KmsKey | None = None
    vpc: VpcSettings | None = None
    poll_seconds: float = Field(default=60, gt=0)
    max_hours: float = Field(default=24, gt=0)

    @property
    def epochs(self) -> int:
        """How often a customization job goes over its file: `epochCount`, or once."""
        return int(self.hyperparameters.get("epochCount", 1))

    @field_validator("hyperparameters")
    @classmethod
    def _whole_epochs(cls, values: dict[str, str]) -> dict[str, str]:
        count = values.get("epochCount", "1")
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"epochCount {count!r} is not a whole number from 1")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> DistillSettings:
        if self.customization == "fine_tuning" and self.training_data != "labelled":
            raise ValueError(
                f"fine-tuning learns from labels, not from {self.training_data}: set "
                "`distill.training_data: labelled`, or `distill.customization: distillation`"
            )
        if self.training_data == "prompts" and "local" in self.students:
            raise ValueError(
                "with `training_data: prompts` only the service labels, and the local student has "
                "nothing to learn from: set `distill.students: [bedrock]`, or "
                "`distill.training_data: labelled`"
            )
        if self.training_data == "invocation_logs" and self.invocation_logs is None:
            raise ValueError(
                "`training_data: invocation_logs` needs to know where the logs are: set "
                "`distill.invocation_logs.uri`"
            )
        return self


class ProvisionedSettings(_Section):
    """What Provisioned Throughput is bought, and the word that its price is known."""

    #: Model units, each billed by the hour, also when idle.
    units: int = Field(ge=1, le=100)
    #: A commitment can't be ended before its time.
    commitment: Literal["none", "one_month", "six_months"] = "none"
    #: US dollars an hour that may be spent: what is bought must not cost more.
    confirm_usd_per_hour: float = Field(ge=0)


class DeploySettings(_Section):
    """How the student is deployed, and its smoke test.

    Whatever the mode, a release names a deployment of its own that never changes.
    """

    #: `on_demand`: a deployment for each run's model. `stable`: beside it, one more whose ARN
    #: stays and whose model follows the release pointer. `provisioned`: Provisioned Throughput
    #: for each run's model.
    mode: Literal["on_demand", "stable", "provisioned"] = "on_demand"
    provisioned: ProvisionedSettings | None = None
    smoke_queries: int = Field(default=10, ge=1, le=100)
    #: Smoke answers that must be valid for the deployment to count as working.
    smoke_valid_min: Share = 0.8
    poll_seconds: float = Field(default=15, gt=0)
    max_minutes: float = Field(default=60, gt=0)

    @model_validator(mode="after")
    def _says_what_is_bought(self) -> DeploySettings:
        if self.mode == "provisioned" and self.provisioned is None:
            raise ValueError(
                "`mode: provisioned` buys Provisioned Throughput by the hour: say how much, in "
                "`deploy.provisioned: {units: 1, commitment: none, confirm_usd_per_hour: …}`"
            )
        return self


class EvaluateSettings(_Section):
    """How candidates are asked and judged."""

    role_arn: RoleArn
    #: Who asks the judge: Bedrock's evaluation jobs, or we, through Converse, which is cheaper.
    judge: Literal["job", "converse"] = "job"
    #: Calls to the judge in flight together, where it is asked through Converse.
    judge_concurrency: int = Field(default=8, ge=1, le=64)
    #: Encrypts the judge's job and what it keeps.
    kms_key_id: KmsKey | None = None
    #: Queries in flight together; the same for every candidate, so that latency compares.
    concurrency: int = Field(default=2, ge=1, le=64)
    poll_seconds: float = Field(default=30, gt=0)
    max_hours: float = Field(default=6, gt=0)
    bootstrap_samples: int = Field(default=2000, ge=100)
    seed: int = 7
    #: Queries whose answers the report shows side by side.
    demo_queries: tuple[str, ...] = (
        "CEO discussing quarterly earnings",
        "sunset over mountains",
        "dog barking loudly",
        "Season 3 episode 7 of The Crown",
    )


class PromoteSettings(_Section):
    """The gate."""

    #: What may be promoted, in the order of preference: a later one must be clearly better.
    candidates: tuple[Literal["local-student", "cascade", "distilled-student"], ...] = Field(
        ("local-student", "cascade", "distilled-student"), min_length=1
    )
    valid_rate_min: Share = 0.98
    #: The paired difference to the current release may not lie below this.
    max_regression: float = Field(default=0.05, ge=0)
    max_p95_latency_ms: float = Field(default=1500, gt=0)


class ScheduleSettings(_Section):
    """When the pipeline starts by itself, and that only one run of an environment works."""

    #: Minute, hour, day of the month, month, day of the week.
    cron: str = "0 3 * * 1"
    timezone: str = "UTC"
    #: Whether the schedule fires.
    active: bool = True
    #: A run that is started while another is at work waits for it, or is refused.
    collision: Literal["enqueue", "refuse"] = "enqueue"
    #: How long an environment stays taken after its holder was last heard of.
    lease_seconds: float = Field(default=120, gt=0)
    #: How often a run that waits looks whether the environment is free.
    poll_seconds: float = Field(default=5, gt=0)


class NotifySettings(_Section):
    """Who is told when something needs a person, and when a run counts as too long or dead."""

    #: The environment variable of `make deploy` that holds the webhook's URL. It gets a JSON
    #: object with the key `text`.
    url_variable: str = "REELROUTE_NOTIFY_URL"
    #: A run that works for longer than this is told of.
    long_run_minutes: float = Field(default=120, ge=1)
    #: A flow run that gave no sign of life for so long is marked Crashed. Runs give one every 30.
    silent_seconds: float = Field(default=100, ge=65)


class DriftThresholds(_Section):
    """From which value on a measure has drifted.

    Chosen on data: `python -m benchmarks.monitor` counts the false alarms and what is noticed.
    """

    #: Population stability index of the leading channel.
    channel: float = Field(default=0.05, gt=0)
    #: … of each channel's weights.
    weights: float = Field(default=0.1, gt=0)
    #: … of the number of words.
    words: float = Field(default=0.1, gt=0)
    #: … of the scripts, and of the languages as far as the router judges them.
    language: float = Field(default=0.1, gt=0)
    #: … of the router's expected error, or of its confidence.
    confidence: float = Field(default=0.1, gt=0)
    #: More of the queries answered by a stopgap than before, as a share.
    fallback: Share = 0.02
    #: More of the queries with a word that the training set doesn't hold, as a share.
    vocabulary: Share = 0.1
    #: More of the requests refused or failed than before, as a share.
    refused: Share = 0.02
    #: The 95th percentile of latency against the one before.
    latency: float = Field(default=1.5, gt=1)


class MonitorSettings(_Section):
    """What is watched in production: one window of router logs after the other."""

    #: Where the logs lie in the bucket: the service's lines or Bedrock's invocation logs.
    logs: tuple[str, ...] = Field(("logs/",), min_length=1)
    #: When the monitor starts by itself: often enough for every window.
    cron: str = "15 * * * *"
    window_minutes: int = Field(default=60, ge=1, le=10_080)
    #: A window is looked at so long after its end: its logs must be uploaded by then.
    delay_minutes: int = Field(default=10, ge=0)
    #: With fewer queries on either side a measure is not compared.
    min_queries: int = Field(default=500, ge=10)
    thresholds: DriftThresholds = DriftThresholds()
    #: The same measures of the same release are told of once in so many hours.
    repeat_hours: int = Field(default=168, ge=1)
    #: Queries that are sampled for the next run, at most.
    sample_size: int = Field(default=2000, ge=0, le=20_000)
    seed: int = 7
    #: Memory that DuckDB may use for one file before it turns to the disk.
    memory_mb: int = Field(default=400, ge=100)


class CleanupSettings(_Section):
    """What stays when cleanup removes the models, deployments and runs that nothing needs."""

    #: So many releases before the current one stay deployable: as far as a rollback reaches.
    keep: int = Field(default=3, ge=0)
    #: So many of the newest runs keep their folders, models and deployments.
    runs: int = Field(default=10, ge=1)
    #: When cleanup starts by itself.
    cron: str = "0 6 * * 0"


#: The ends of settings' names that say how to wait, and of nothing that comes of it.
_OF_WAITING = ("poll_seconds", "max_hours", "max_minutes", "wait_hours")


class TaskRunnerSettings(_Section):
    """Where mapped tasks run: threads of the flow's process, or workers of a Dask cluster."""

    kind: Literal["threads", "dask"] = "threads"
    #: Threads, or processes of a cluster that is started for the flow.
    workers: int = Field(default=2, ge=1, le=256)
    #: The scheduler of a Dask cluster that is there, as in tcp://10.0.0.5:8786.
    address: str | None = None


class Quota(_Section):
    """What the service lets an account ask a model in a minute, in one region.

    Source: the Service Quotas console, "On-demand model inference requests (tokens) per minute".
    """

    requests_per_minute: float | None = Field(default=None, gt=0)
    #: Input and output together; an answer counts with its limit until it is there.
    tokens_per_minute: float | None = Field(default=None, gt=0)


class BudgetSettings(_Section):
    """What one run may cost; the call that would pass it is not made."""

    usd_per_run: float = Field(gt=0)


class ModelPrice(_Section):
    """US dollars per 1,000 tokens; `simulated` marks an embedded model.

    Attributes:
        batch: what batch inference costs, as a share of the price on demand; None where the
            model isn't offered for it.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    training: float = Field(default=0.0, ge=0)
    batch: float | None = Field(default=None, gt=0, le=1)
    simulated: bool = False

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """The price of so many tokens in US dollars."""
        return (self.input * input_tokens + self.output * output_tokens) / 1000

    def batch_usd(self, input_tokens: float, output_tokens: float) -> float:
        """The price of so many tokens of a batch inference job in US dollars."""
        return (self.batch or 1) * self.usd(input_tokens, output_tokens)


class UnitPrice(_Section):
    """US dollars an hour for one model unit of Provisioned Throughput, by commitment."""

    none: float | None = Field(default=None, ge=0)
    one_month: float | None = Field(default=None, ge=0)
    six_months: float | None = Field(default=None, ge=0)
    simulated: bool = False


class JudgeStep(_Section):
    """A step of the judge's scale; the service allows 100 characters."""

    value: float
    definition: str = Field(min_length=1, max_length=100)


class JudgeMetric(_Section):
    """The judge's custom metric; the service allows 5,000 characters and 10 steps."""

    metric: str = Field(pattern=r"^[0-9a-zA-Z-_.]+$", max_length=63)
    instructions: str = Field(min_length=1, max_length=5000)
    rating_scale: tuple[JudgeStep, ...] = Field(min_length=2, max_length=10)


class PlanCell(NamedTuple):
    """How many queries of one kind are wanted."""

    channel: str
    difficulty: str
    domain: str
    queries: int


PromptName = Literal["router", "write_queries", "repair", "judge"]


class Settings(_Section):
    """A profile with everything that it names read and checked."""

    environment: Slug
    aws: AwsSettings
    storage: StorageSettings
    prefect: PrefectSettings = PrefectSettings()
    models: ModelsSettings
    label: LabelSettings = LabelSettings()
    validation: ValidateSettings = Field(default=ValidateSettings(), alias="validate")
    distill: DistillSettings
    deploy: DeploySettings = DeploySettings()
    evaluate: EvaluateSettings
    promote: PromoteSettings = PromoteSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    notify: NotifySettings = NotifySettings()
    monitor: MonitorSettings = MonitorSettings()
    cleanup: CleanupSettings = CleanupSettings()
    task_runner: TaskRunnerSettings = TaskRunnerSettings()
    budget: BudgetSettings
    #: On-demand quotas by model id (a deployment's by the student's `customization_id`), which
    #: all workers of the environment keep to together. A model that is not named has none.
    quotas: dict[str, Quota] = Field(default_factory=dict)

    @field_validator("quotas")
    @classmethod
    def _of_known_models(cls, quotas: dict[str, Quota], info: ValidationInfo) -> dict[str, Quota]:
        models: ModelsSettings | None = info.data.get("models")
        if models:
            asked = (models.teacher, models.student, models.large_baseline, models.judge)
            known = dict.fromkeys([*(model.id for model in asked), models.student.customization_id])
            for name in quotas:
                if name not in known:
                    raise ValueError(
                        f"no model of the profile is {name!r}; its models are {', '.join(known)}"
                    )
        return quotas

    @model_validator(mode="after")
    def _names_its_teacher(self) -> Settings:
        wanted = "bedrock" in self.distill.students and (
            self.distill.customization == "distillation"
        )
        if wanted and not self.models.distillation_teacher:
            raise ValueError(
                "a distillation job names its teacher: set `models.distillation_teacher`, or "
                "`distill.customization: fine_tuning`, which needs none"
            )
        return self

    def section_hash(self, *names: str) -> str:
        """Hash of the named settings, dotted names allowed: what a stage's output depends on.

        How long and how often is waited is no part of it: a limit that is raised after it was
        reached finds the job that was waited for.
        """
        values = {}
        dump = self.model_dump(mode="json", by_alias=True)
        for name in names:
            value: Any = dump
            for part in name.split("."):
                value = value[part]
            if isinstance(value, dict):
                value = {key: v for key, v in value.items() if not key.endswith(_OF_WAITING)}
            values[name] = value
        return _hash(json.dumps(values, sort_keys=True).encode())

    def prompt(self, name: PromptName) -> Prompt:
        """A prompt's text, stripped, with its hash."""
        return Prompt.of(_read(CONFIGS / "prompts" / f"{name}.md").strip())

    @cached_property
    def judge_metric(self) -> JudgeMetric:
        """The judge's metric and scale."""
        return _typed(JudgeMetric, _yaml(CONFIGS / "judge.yaml"), "configs/judge.yaml")

    @cached_property
    def published(self) -> dict[str, Any]:
        """The published solution's figures, as the report shows them."""
        return _yaml(CONFIGS / "published.yaml")

    @cached_property
    def _prices(self) -> dict[str, Any]:
        return _yaml(CONFIGS / "prices.yaml")

    @property
    def price_source(self) -> str:
        """Where the prices come from, and of when they are."""
        return f"{self._prices['source']}, as of {self._prices['as_of']}"

    def price(self, model: ModelSettings) -> ModelPrice:
        """The price of a model's tokens.

        Raises:
            ConfigError: the price list doesn't have it.
        """
        listed = self._prices["models"]
        if model.price_id not in listed:
            raise ConfigError(
                f"configs/prices.yaml has no price for {model.price_id!r}: add it under `models`, "
                f"or let the model's `price` in the profile name one of {', '.join(listed)}"
            )
        return _typed(ModelPrice, listed[model.price_id], f"configs/prices.yaml: {model.price_id}")

    def distillation_price(self) -> ModelPrice | None:
        """The price of the teacher that answers inside the job, where one does.

        Raises:
            ConfigError: the price list doesn't have it.
        """
        if "bedrock" not in self.distill.students or self.distill.training_data == "labelled":
            return None
        return self.price(ModelSettings(id=self.models.distillation_teacher))

    def provisioned_usd_per_hour(self) -> tuple[float, bool]:
        """What the profile's Provisioned Throughput costs an hour, and whether that is simulated.

        Raises:
            ConfigError: the price list doesn't have it, or the profile's
                `deploy.provisioned.confirm_usd_per_hour` is less: nothing may be bought.
        """
        wanted = self.deploy.provisioned
        if self.deploy.mode != "provisioned" or wanted is None:
            return 0.0, False
        student, listed = self.models.student.customization_id, self._prices.get("model_units", {})
        raw = listed.get(student, {})
        price = _typed(UnitPrice, raw, f"configs/prices.yaml: model_units.{student}")
        unit: float | None = getattr(price, wanted.commitment)
        if unit is None:
            raise ConfigError(
                f"configs/prices.yaml has no price of a model unit of {student!r} with commitment "
                f"{wanted.commitment}: ask AWS for it and add it under `model_units`"
            )
        usd = unit * wanted.units
        months = {"none": 0, "one_month": 1, "six_months": 6}[wanted.commitment]
        least = f", ${usd * 730 * months:,.2f} at least over the commitment" if months else ""
        if wanted.confirm_usd_per_hour < usd:
            raise ConfigError(
                f"Provisioned Throughput of {wanted.units} model units with commitment "
                f"{wanted.commitment} costs ${usd:,.2f} an hour, idle or not{least}, and is not "
                f"confirmed: set `deploy.provisioned.confirm_usd_per_hour: {usd:g}` to buy it"
            )
        return usd, price.simulated

    def plan_hash(self) -> str:
        """Hash of the plan as it is asked for."""
        return _hash(json.dumps(self.plan()).encode())

    def plan(self) -> list[PlanCell]:
        """The label plan, scaled to `label.size` by largest remainder.

        Raises:
            ConfigError: the file is missing or a row is wrong.
        """
        cells = _read_plan(ROOT / self.label.plan)
        return scale_plan(cells, self.label.size) if self.label.size else cells


def load_settings(
    profile: str | Path = DEFAULT_PROFILE, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read a profile.

    Args:
        profile: path of the YAML, relative to the checkout or absolute.
        overrides: dotted names to values, stronger than the profile.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown (with the nearest known
            one), or a value is wrong; every finding on a line of its own.
    """
    path = profile if Path(profile).is_absolute() else ROOT / profile
    source = str(profile)
    raw = _yaml(Path(path), source)
    stronger = {**(overrides or {}), **environment_overrides()}
    for name, value in stronger.items():
        _set(raw, name, value, source)
    return _typed(Settings, raw, source, frozenset(stronger))


def environment_overrides() -> dict[str, Any]:
    """Dotted names to values from `REELROUTE__…` environment variables, values read as YAML."""
    found = {}
    for variable, text in sorted(os.environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            found[name] = parse_value(text)
    return found


def parse_value(text: str) -> Any:
    """A setting's value from text, as YAML reads it; what YAML can't read stays text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def scale_plan(cells: list[PlanCell], size: int) -> list[PlanCell]:
    """The plan with the same proportions for `size` queries; cells that come to 0 fall out."""
    total = sum(cell.queries for cell in cells)
    exact = [cell.queries * size / total for cell in cells]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(cells)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: size - sum(counts)]:
        counts[i] += 1
    return [cell._replace(queries=n) for cell, n in zip(cells, counts, strict=True) if n]


def _read_plan(path: Path) -> list[PlanCell]:
    cells, seen = [], set()
    reader = csv.DictReader(_read(path).splitlines())
    if reader.fieldnames != list(PlanCell._fields):
        raise ConfigError(f"{path.name}: the columns must be {','.join(PlanCell._fields)}")
    for number, row in enumerate(reader, start=2):
        try:
            cell = PlanCell(row["channel"], row["difficulty"], row["domain"], int(row["queries"]))
        except (TypeError, ValueError):
            raise ConfigError(f"{path.name}, line {number}: {row} is not a plan row") from None
        if cell.queries < 0 or cell[:3] in seen:
            raise ConfigError(f"{path.name}, line {number}: negative count or a cell named twice")
        seen.add(cell[:3])
        cells.append(cell)
    if not any(cell.queries for cell in cells):
        raise ConfigError(f"{path.name}: the plan asks for no query")
    return cells


def _set(raw: dict[str, Any], name: str, value: Any, source: str) -> None:
    *parents, last = name.split(".")
    section = raw
    for part in parents:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: `{name}` can't be set, `{part}` is not a section")
    section[last] = value


def _typed(model: type[M], raw: Any, source: str, overridden: frozenset[str] = frozenset()) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_sentence(model, f, source, overridden) for f in error.errors())
        ) from None


def _sentence(model: type[BaseModel], finding: Any, source: str, overridden: frozenset[str]) -> str:
    path = [str(part) for part in finding["loc"]]
    name = ".".join(path)
    if name in overridden:
        source = "setting given for this run"
    if finding["type"] == "extra_forbidden":
        known = _keys(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = (
            f"did you mean `{'.'.join([*path[:-1], near[0]])}`?"
            if near
            else f"known here: {', '.join(known)}"
        )
        return f"{source}: unknown key `{name}`; {hint}"
    if finding["type"] == "missing":
        return f"{source}: `{name}` is missing; add it to the profile"
    got = finding["input"]
    shown = "" if isinstance(got, dict | list) else f" (got {str(got)[:80]!r})"
    where = f"`{name}`: " if name else ""
    return f"{source}: {where}{finding['msg'].removeprefix('Value error, ')}{shown}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section of the profile knows."""
    for part in path:
        field = model.model_fields.get(part) or next(
            (f for f in model.model_fields.values() if f.alias == part), None
        )
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return []
        model = models[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _yaml(path: Path, source: str | None = None) -> dict[str, Any]:
    source = source or f"configs/{path.name}"
    try:
        raw = yaml.safe_load(_read(path, source))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} holds no settings")
    return raw


def _read(path: Path, source: str | None = None) -> str:
    source = source or path.name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source} doesn't exist; name a file of configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} can't be read: {error}") from None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
