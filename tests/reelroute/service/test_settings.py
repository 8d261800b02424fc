"""The service's settings: defaults, environment, options; unknown names are errors."""

from __future__ import annotations

import pytest

from reelroute.errors import ConfigError
from reelroute.service.settings import ServiceSettings, load_service_settings


def test_by_default_only_this_machine_is_served_and_no_query_is_logged() -> None:
    settings = load_service_settings({}, {})
    assert settings == ServiceSettings()
    assert settings.host == "127.0.0.1"
    assert not settings.log_queries


def test_an_option_beats_the_environment_and_that_the_default() -> None:
    environment = {"REELROUTE_SERVICE__MAX_BATCH": "5", "REELROUTE_SERVICE__LOG_QUERIES": "true"}
    settings = load_service_settings({"max_batch": 7, "port": None}, environment)
    assert (settings.max_batch, settings.log_queries, settings.port) == (7, True, 8080)


def test_the_profiles_variables_are_left_alone() -> None:
    assert load_service_settings({}, {"REELROUTE__LABEL__SIZE": "1"}) == ServiceSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BATCHES", "5"),
        ("MAX_BATCH", "many"),
        ("MAX_BATCH", "0"),
        ("PORT", "70000"),
        ("DEADLINE_MS", "-1"),
        ("MAX_QUERY_CHARACTERS", "1001"),
        ("WORKERS", "0"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"the service's settings: {name.lower()}: "):
        load_service_settings({}, {f"REELROUTE_SERVICE__{name}": value})
