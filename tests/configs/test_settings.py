"""Profiles: what they set, what is stronger, and the sentence for every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import CONFIGS, ModelSettings, PlanCell, Settings, load_settings, scale_plan
from reelroute.errors import ConfigError

LOCAL = CONFIGS / "local.yaml"
PROFILES = sorted(
    path for path in CONFIGS.glob("*.yaml") if "environment:" in path.read_text(encoding="utf-8")
)

counts = st.lists(st.integers(0, 200), min_size=1, max_size=40).filter(any)


def cells(queries: list[int]) -> list[PlanCell]:
    return [PlanCell("visual", "easy", f"domain-{i}", n) for i, n in enumerate(queries)]


def profile(folder: Path, **changes: Any) -> Path:
    """The local profile with other top-level sections."""
    raw = yaml.safe_load(LOCAL.read_text(encoding="utf-8"))
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump({**raw, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_committed_profile_loads_with_prices_plan_and_prompts(path: Path) -> None:
    settings = load_settings(path)
    models = settings.models
    for model in (models.teacher, models.student, models.large_baseline, models.judge):
        assert settings.price(model).input >= 0
    assert sum(cell.queries for cell in settings.plan()) >= 100
    assert settings.prompt("router").text
    assert "{{prediction}}" in settings.judge_metric.instructions
    assert settings.published


def test_the_profiles_that_are_tested_are_there() -> None:
    assert {"local", "aws", "seed"} <= {path.stem for path in PROFILES}


@pytest.mark.parametrize(
    ("misspelt", "near"),
    [
        ("label.sise", "label.size"),
        ("bugdet", "budget"),
        ("models.teacher.max_token", "models.teacher.max_tokens"),
        ("validate.balance_tolerence", "validate.balance_tolerance"),
        ("models.techer", "models.teacher"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_known_one(misspelt: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(LOCAL, {misspelt: 1})
    assert f"unknown key `{misspelt}`; did you mean `{near}`?" in str(error.value)


def test_a_key_like_no_other_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown key `promote\.xyz`; known here: candidates"):
        load_settings(LOCAL, {"promote.xyz": 1})


def test_every_finding_stands_on_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(LOCAL, {"label.sise": 300, "budget.usd_per_run": -1, "environment": "A B"})
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert any("`budget.usd_per_run`" in line and "got '-1'" in line for line in lines)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`budget\.usd_per_run` is missing; add it"):
        load_settings(profile(tmp_path, budget={}))


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"configs/nowhere\.yaml doesn't exist"):
        load_settings("configs/nowhere.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"label: [1,", "is not YAML"),
        (b"- a\n- b\n", "holds no settings"),
        (b"", "holds no settings"),
        (b"environment: \xff\xfe", "can't be read"),
    ],
)
def test_a_file_that_is_no_profile_is_one_sentence(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "profile.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_settings(path)
    assert said in str(error.value)
    assert "profile.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label.size", 99),
        ("label.size", 300_000),
        ("label.concurrency", 0),
        ("promote.valid_rate_min", 1.2),
        ("storage.bucket", "No Bucket"),
        ("storage.encryption", "none"),
        ("distill.role_arn", "my-role"),
        ("environment", "Local"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{name}`"):
        load_settings(LOCAL, {name: value})


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="`environment` is not a section"):
        load_settings(LOCAL, {"environment.name": 1})


def test_overrides_are_stronger_than_the_profile_and_the_environment_is_strongest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = load_settings(LOCAL).label
    assert (default.size, default.round) == (None, "1")
    named = {"label.size": 300, "label.round": "2"}
    assert load_settings(LOCAL, named).label.size == 300
    monkeypatch.setenv("REELROUTE__LABEL__SIZE", "500")
    settings = load_settings(LOCAL, named)
    assert (settings.label.size, settings.label.round) == (500, "2")


def test_values_of_the_environment_are_read_as_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELROUTE__AWS__ENDPOINT_URL", "null")
    monkeypatch.setenv("REELROUTE__BUDGET__USD_PER_RUN", "2.5")
    settings = load_settings(LOCAL)
    assert settings.aws.endpoint_url is None
    assert settings.budget.usd_per_run == 2.5


def test_a_number_may_stand_where_a_text_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELROUTE__LABEL__ROUND", "9")
    assert load_settings(LOCAL).label.round == "9"


def test_an_unknown_key_in_the_environment_is_an_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REELROUTE__LABEL__SISE", "500")
    with pytest.raises(ConfigError, match=r"unknown key `label\.sise`"):
        load_settings(LOCAL)


def test_a_model_without_a_price_is_named_with_the_price_list() -> None:
    settings = load_settings(LOCAL)
    with pytest.raises(ConfigError, match=r"prices\.yaml has no price for 'unheard-of'"):
        settings.price(ModelSettings(id="unheard-of"))


def test_a_model_may_take_another_ones_price() -> None:
    settings = load_settings(LOCAL)
    teacher = settings.models.teacher
    other = ModelSettings(id="unheard-of", price=teacher.id)
    assert settings.price(other) == settings.price(teacher)


def test_batch_inference_needs_a_role() -> None:
    with pytest.raises(ConfigError, match=r"`batch_from` is set without `batch_role_arn`"):
        load_settings(overrides={"label.batch_from": 100})
    role = "arn:aws:iam::123456789012:role/reelroute"
    batched = {"label.batch_from": 100, "label.batch_role_arn": role}
    assert load_settings(overrides=batched).label.batch_file_records == 10_000
    with pytest.raises(ConfigError, match=r"label\.batch_file_records"):
        load_settings(overrides={"label.batch_file_records": 50_001})


@given(queries=counts, size=st.integers(1, 5000))
def test_a_scaled_plan_sums_to_its_size_and_each_cell_is_right_within_one(
    queries: list[int], size: int
) -> None:
    plan = cells(queries)
    scaled = {cell.domain: cell.queries for cell in scale_plan(plan, size)}
    assert sum(scaled.values()) == size
    for cell in plan:
        exact = cell.queries * size / sum(queries)
        assert abs(scaled.get(cell.domain, 0) - exact) < 1
        assert cell.queries or cell.domain not in scaled


@given(queries=counts, size=st.integers(1, 5000))
def test_scaling_a_plan_is_deterministic_and_keeps_its_order(queries: list[int], size: int) -> None:
    plan = cells(queries)
    scaled = scale_plan(plan, size)
    assert scaled == scale_plan(plan, size)
    order = [cell.domain for cell in plan]
    places = [order.index(cell.domain) for cell in scaled]
    assert places == sorted(places)
    assert all(cell.queries > 0 for cell in scaled)


def test_without_a_size_the_plan_stands_as_it_is() -> None:
    settings = load_settings(LOCAL)
    assert sum(cell.queries for cell in settings.plan()) == 9967 or settings.label.size is None
    assert sum(c.queries for c in load_settings(LOCAL, {"label.size": 321}).plan()) == 321


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["visual,easy,news,many"], "line 2: .* is not a plan row"),
        (["visual,easy,news,4", "visual,easy"], "line 3: .* is not a plan row"),
        (["visual,easy,news,-4"], "line 2: negative count"),
        (["visual,easy,news,4", "visual,easy,news,5"], "line 3: .*a cell named twice"),
        (["visual,easy,news,0"], "the plan asks for no query"),
        ([], "the plan asks for no query"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_line(rows: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_text("\n".join(["channel,difficulty,domain,queries", *rows]), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_settings(LOCAL, {"label.plan": str(path)}).plan()


def test_a_plan_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_text("channel,queries\nvisual,4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the columns must be channel,difficulty,domain,queries"):
        load_settings(LOCAL, {"label.plan": str(path)}).plan()


def test_a_plan_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.csv doesn't exist"):
        load_settings(LOCAL, {"label.plan": "configs/nowhere.csv"}).plan()


def test_a_sections_hash_changes_only_with_its_sections() -> None:
    base = load_settings(LOCAL)
    gate = load_settings(LOCAL, {"promote.valid_rate_min": 0.5})
    teacher = load_settings(LOCAL, {"models.teacher.max_tokens": 77})

    def same(other: Settings, *names: str) -> bool:
        return base.section_hash(*names) == other.section_hash(*names)

    assert not same(gate, "promote")
    assert not same(gate, "label", "promote")
    assert same(gate, "label", "validate", "distill", "deploy", "evaluate", "models")
    assert not same(teacher, "models.teacher")
    assert not same(teacher, "models")
    assert same(teacher, "models.student", "promote")
    waits = {"distill.max_hours": 48, "deploy.max_minutes": 90}
    assert same(load_settings(LOCAL, waits), "distill", "deploy")
    # Latencies depend on how many are asked at once.
    assert not same(load_settings(LOCAL, {"evaluate.concurrency": 5}), "evaluate")


def test_hashes_of_different_sections_differ() -> None:
    settings = load_settings(LOCAL)
    assert settings.section_hash("label") != settings.section_hash("promote")


def test_the_plans_hash_follows_what_it_asks_for() -> None:
    base = load_settings(LOCAL, {"label.size": 300})
    assert base.plan_hash() == load_settings(LOCAL, {"label.size": 300}).plan_hash()
    assert base.plan_hash() != load_settings(LOCAL, {"label.size": 301}).plan_hash()


def test_a_prompts_hash_is_that_of_its_text() -> None:
    from reelroute.release import Prompt

    prompt = load_settings(LOCAL).prompt("router")
    assert prompt == Prompt.of(prompt.text)
    assert prompt.text == prompt.text.strip()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"distill.customization": "fine_tuning", "distill.training_data": "prompts"},
            "fine-tuning learns from labels, not from prompts: set `distill.training_data",
        ),
        (
            {"distill.customization": "fine_tuning", "distill.training_data": "invocation_logs"},
            "or `distill.customization: distillation`",
        ),
        (
            {"distill.training_data": "prompts"},
            "the local student has nothing to learn from: set `distill.students: [bedrock]`",
        ),
        (
            {"distill.training_data": "invocation_logs"},
            "needs to know where the logs are: set `distill.invocation_logs.uri`",
        ),
        ({"distill.invocation_logs": {"uri": "/logs"}}, "should match pattern"),
        (
            {
                "distill.invocation_logs": {
                    "uri": "s3://logs",
                    "filters": [{"equals": {"a": "1"}, "not_equals": {"b": "2"}}],
                }
            },
            "a filter has either `equals` or `not_equals`",
        ),
        (
            {
                "distill.invocation_logs": {
                    "uri": "s3://logs",
                    "filters": [{"equals": {"a": "1", "b": "2"}}],
                }
            },
            "at most 1 item",
        ),
        ({"models.distillation_teacher": ""}, "set `models.distillation_teacher`, or"),
        ({"deploy.mode": "provisioned"}, "buys Provisioned Throughput by the hour: say how much"),
        ({"storage.bucket_owner": "12345"}, "`storage.bucket_owner`"),
        ({"storage.kms_key_id": "my key"}, "`storage.kms_key_id`"),
        ({"distill.kms_key_id": "arn:aws:kms:x"}, "`distill.kms_key_id`"),
        ({"evaluate.kms_key_id": "key"}, "`evaluate.kms_key_id`"),
        (
            {"distill.vpc": {"subnets": ["10.0.0.0/24"], "security_groups": ["sg-1"]}},
            "`distill.vpc.subnets.0`",
        ),
        (
            {"distill.vpc": {"subnets": ["subnet-1"], "security_groups": []}},
            "`distill.vpc.security_groups`",
        ),
    ],
)
def test_what_does_not_fit_together_says_what_to_set(
    overrides: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(overrides=overrides)
    assert said in str(error.value)
    assert "``" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012",
        "12345678-1234-1234-1234-123456789012",
        "alias/reelroute",
    ],
)
def test_keys_are_taken_as_the_service_takes_them(key: str) -> None:
    settings = load_settings(
        overrides={"distill.kms_key_id": key, "storage.bucket_owner": "012345678901"}
    )
    pattern = (
        boto3.client("bedrock", region_name="us-east-1")
        .meta.service_model.shape_for("KmsKeyId")
        .metadata["pattern"]
    )
    assert re.fullmatch(pattern, str(settings.distill.kms_key_id))
    assert settings.storage.bucket_owner == "012345678901"


def test_a_fine_tuned_student_needs_no_teacher_in_the_service() -> None:
    settings = load_settings(
        overrides={"distill.customization": "fine_tuning", "models.distillation_teacher": ""}
    )
    assert settings.distillation_price() is None


def test_a_model_unit_without_a_price_is_not_bought() -> None:
    overrides = {
        "deploy.mode": "provisioned",
        "deploy.provisioned": {"units": 1, "confirm_usd_per_hour": 1000},
        "models.student.customization_id": "amazon.nova-micro-v1:0:128k",
    }
    with pytest.raises(
        ConfigError, match=r"no price of a model unit of 'amazon\.nova-micro"
    ) as error:
        load_settings(overrides=overrides).provisioned_usd_per_hour()
    assert "add it under `model_units`" in str(error.value)
