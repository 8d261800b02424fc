"""The service's answers: one query or many, health, readiness, metrics, OpenAPI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from reelroute.errors import ReelRouteError
from reelroute.routers import Router, RulesRouter
from reelroute.routers.following import CacheInfo
from reelroute.weights import RoutingWeights
from tests.reelroute.service.conftest import WEIGHTS, FakeRouter, Service, unreachable

Start = Callable[..., Service]


def test_one_query_gets_its_weights(start: Start) -> None:
    answer = start(FakeRouter()).route("  goal \t celebration ")
    assert answer.status_code == 200
    assert answer.json() == {
        "weights": WEIGHTS,
        "active": {"visual": 0.5, "audio": 0.3, "transcription": 0.2},
        "dominant": "visual",
        "router": "fake",
        "release": "2026-w01",
        "reasoning": None,
    }


def test_the_router_is_asked_with_single_spaces(start: Start) -> None:
    router = FakeRouter()
    start(router).route("  goal \t\n celebration ")
    assert router.asked == ["goal celebration"]


def test_many_queries_get_their_answers_in_their_order(start: Start) -> None:
    queries = ["dogs barking", "sunset", "he said yes"]
    answers = start().client.post("/v1/route", json={"queries": queries}).json()["answers"]
    assert [a["dominant"] for a in answers] == ["audio", "visual", "transcription"]


def test_a_list_of_one_query_is_answered_as_a_list(start: Start) -> None:
    answer = start().client.post("/v1/route", json={"queries": ["sunset"]}).json()
    assert len(answer["answers"]) == 1


def test_reasoning_is_given_only_where_it_is_asked_for(start: Start) -> None:
    service = start()
    assert service.route("dogs barking").json()["reasoning"] is None
    assert service.route("dogs barking", reasoning=False).json()["reasoning"] is None
    asked = service.route("dogs barking", reasoning=True).json()
    assert asked["reasoning"] == "Cue words: barking for audio."


def test_reasoning_is_not_computed_unless_asked(start: Start) -> None:
    class Lazy(RoutingWeights):
        def __getattribute__(self, name: str) -> object:
            assert name != "reasoning", "computed"
            return super().__getattribute__(name)

    service = start(FakeRouter(lambda _: Lazy(**WEIGHTS, router="fake")))
    assert service.route("a").status_code == 200
    assert service.route("a", reasoning=True).status_code == 500


@pytest.mark.parametrize("fields", [{"query": "a"}, {"queries": ["a", "b"]}])
def test_no_router_is_asked_in_the_event_loop(start: Start, fields: dict[str, object]) -> None:
    router = FakeRouter()
    assert start(router).client.post("/v1/route", json=fields).status_code == 200
    assert [name.startswith("reelroute-service") for name in router.threads] == [True]


def test_a_model_that_waits_does_not_hold_up_health(start: Start) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait(_: str) -> RoutingWeights:
        asked.set()
        assert go_on.wait(20)
        return RoutingWeights.uniform(router="fake")

    service = start(FakeRouter(wait))
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(service.route("a").status_code))
    waiting.start()
    assert asked.wait(20)
    assert service.client.get("/healthz").status_code == 200
    assert answers == []
    go_on.set()
    waiting.join()
    assert answers == [200]


def test_an_unreachable_model_is_a_503_that_gives_nothing_away(start: Start) -> None:
    answer = start(FakeRouter(unreachable)).route("a")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "router_unreachable"
    assert "secret-model" not in answer.text


def crash(_: str) -> RoutingWeights:
    raise ZeroDivisionError("a secret of the router")


def not_numbers(_: str) -> RoutingWeights:
    return RoutingWeights.model_construct(
        visual=float("nan"), audio=0.5, transcription=0.5, metadata=0.0, router="x"
    )


@pytest.mark.parametrize("answer", [crash, not_numbers])
def test_a_broken_router_is_a_500_without_a_stack_trace(
    start: Start, answer: Callable[[str], RoutingWeights]
) -> None:
    service = start(FakeRouter(answer))
    response = service.route("a")
    assert response.status_code == 500
    assert response.json() == {
        "error": {"code": "internal", "message": "The service failed; its log says why."}
    }
    assert service.route("a").status_code == 500
    assert [line["error"] for line in service.lines()] == ["internal", "internal"]


def test_the_process_is_healthy_before_it_is_ready(start: Start) -> None:
    opened = threading.Event()
    router = FakeRouter()

    def open_router() -> Router:
        assert opened.wait(20)
        return router

    service = start(open_router)
    assert service.client.get("/healthz").json() == {"status": "ok"}
    for answer in (service.client.get("/readyz"), service.route("a")):
        assert answer.status_code == 503
        assert answer.json()["error"] == {
            "code": "not_ready",
            "message": "Not ready: the release is being opened.",
        }
    opened.set()
    while service.client.get("/readyz").status_code != 200:
        pass
    assert service.client.get("/readyz").json() == {"status": "ready", "release": "2026-w01"}
    assert service.route("a").status_code == 200
    assert not router.closed
    service.lines()
    assert router.closed


def test_a_release_that_cannot_be_opened_yet_is_tried_again(start: Start) -> None:
    failed, go_on = threading.Event(), threading.Event()

    def open_router() -> Router:
        if not failed.is_set():
            failed.set()
            raise ReelRouteError("the bucket sleeps")
        assert go_on.wait(20)
        return FakeRouter()

    service = start(open_router, retry_seconds=0.001)
    assert failed.wait(20)
    while "the bucket sleeps" not in service.client.get("/readyz").text:
        pass
    go_on.set()
    while service.client.get("/readyz").status_code != 200:
        pass


def test_a_router_that_was_handed_over_stays_open(start: Start) -> None:
    router = FakeRouter()
    service = start(router)
    service.lines()
    assert not router.closed


def test_readiness_ends_before_queries_do(start: Start) -> None:
    service = start()
    service.client.app.state.lifecycle.shutting_down = True  # type: ignore[attr-defined]
    answer = service.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert service.client.get("/healthz").status_code == 200
    assert service.route("a").status_code == 200


def test_requests_are_counted_by_route_and_status(start: Start) -> None:
    service = start(FakeRouter())
    service.route("a")
    service.client.post("/v1/route", json={"queries": ["a", "b"]})
    service.route("")
    service.client.get("/anything-a-scanner-tries")
    service.client.get("/another")
    assert service.metric('reelroute_requests_total{route="/v1/route",status="200"}') == 2
    assert service.metric('reelroute_requests_total{route="/v1/route",status="422"}') == 1
    assert service.metric('reelroute_requests_total{route="other",status="404"}') == 2
    assert service.metric('reelroute_request_duration_seconds_count{route="/v1/route"}') == 3
    assert service.metric('reelroute_queries_total{router="fake"}') == 3


def test_latencies_are_counted_from_half_a_millisecond_on(start: Start) -> None:
    service = start()
    service.route("a")
    text = service.client.get("/metrics").text
    assert 'reelroute_request_duration_seconds_bucket{le="0.0005",route="/v1/route"}' in text
    assert service.metric("process_resident_memory_bytes") > 0


def test_queries_that_the_rules_answered_in_the_models_place_are_counted(start: Start) -> None:
    service = start(FakeRouter(RulesRouter().route))
    service.route("a")
    assert service.metric('reelroute_fallbacks_total{router="rules"}') == 1
    [line] = service.lines()
    assert [query["fallback"] for query in line["queries"]] == [True]


def test_answers_of_a_local_student_in_the_models_place_are_counted(start: Start) -> None:
    service = start(
        FakeRouter(lambda _: RoutingWeights(**WEIGHTS, router="local (instead of bedrock)"))
    )
    service.client.post("/v1/route", json={"queries": ["a", "b"]})
    assert service.metric('reelroute_fallbacks_total{router="local"}') == 2
    assert service.metric('reelroute_queries_total{router="local"}') == 2
    [line] = service.lines()
    assert [query["fallback"] for query in line["queries"]] == [True, True]


@pytest.mark.parametrize("router", ["local", "bedrock", "bedrock (repaired: fences)"])
def test_an_answer_of_the_model_itself_is_no_fallback(start: Start, router: str) -> None:
    service = start(FakeRouter(lambda _: RoutingWeights(**WEIGHTS, router=router)))
    service.route("a")
    assert "reelroute_fallbacks_total{" not in service.client.get("/metrics").text
    [line] = service.lines()
    assert [query["fallback"] for query in line["queries"]] == [False]


def test_the_rules_are_no_fallback_for_themselves(start: Start) -> None:
    service = start(RulesRouter())
    service.route("a")
    assert service.metric('reelroute_fallbacks_total{router="rules"}') == 0
    [line] = service.lines()
    assert [query["fallback"] for query in line["queries"]] == [False]


def test_what_was_repaired_makes_no_label_of_its_own(start: Start) -> None:
    service = start(
        FakeRouter(lambda _: RoutingWeights(**WEIGHTS, router="bedrock (repaired: fences)"))
    )
    service.route("a")
    assert service.metric('reelroute_queries_total{router="bedrock"}') == 1


def test_the_release_at_work_and_its_changes_are_shown(start: Start) -> None:
    router = FakeRouter(version="a")
    service = start(router)
    assert service.metric('reelroute_release_info{version="a"}') == 1
    router.release = SimpleNamespace(version="b")
    assert service.route("x").json()["release"] == "b"
    assert service.metric('reelroute_release_info{version="a"}') == 0
    assert service.metric('reelroute_release_info{version="b"}') == 1
    assert service.metric("reelroute_release_changes_total") == 1


class CachingRouter(FakeRouter):
    """Says of its cache what it is told to."""

    cache_info: CacheInfo | None = CacheInfo(hits=0, misses=0, size=0, max_size=10)


def cache_samples(service: Service) -> tuple[float, float, float]:
    """Hits, misses and size, as Prometheus reads them."""
    return (
        service.metric("reelroute_cache_hits_total"),
        service.metric("reelroute_cache_misses_total"),
        service.metric("reelroute_cache_size"),
    )


def test_the_cache_of_answers_is_shown_with_what_was_added_since(start: Start) -> None:
    router = CachingRouter()
    service = start(router)
    assert "reelroute_cache_hits_total 0.0" in service.client.get("/metrics").text
    router.cache_info = CacheInfo(hits=3, misses=5, size=4, max_size=10)
    assert [cache_samples(service) for _ in range(2)] == [(3, 5, 4)] * 2
    router.cache_info = CacheInfo(hits=4, misses=7, size=2, max_size=10)
    service.route("a")
    assert cache_samples(service) == (4, 7, 2)


def test_the_cache_of_answers_is_counted_with_each_request(start: Start) -> None:
    router = CachingRouter()
    service = start(router)
    router.cache_info = CacheInfo(hits=1, misses=2, size=3, max_size=10)
    service.route("a")
    # Another worker may be asked for the metrics: nothing of this one waits for it.
    router.cache_info = None
    assert cache_samples(service) == (1, 2, 3)


@pytest.mark.parametrize("info", [None, CacheInfo(hits=0, misses=9, size=0, max_size=0)])
def test_a_router_without_a_cache_shows_none(start: Start, info: CacheInfo | None) -> None:
    router = FakeRouter()
    if info:
        router.cache_info = info  # type: ignore[attr-defined]
    service = start(router)
    service.route("a")
    assert "reelroute_cache" not in service.client.get("/metrics").text


def test_openapi_describes_requests_answers_and_errors(start: Start) -> None:
    api = start().client.get("/openapi.json").json()
    route = api["paths"]["/v1/route"]["post"]
    body = route["requestBody"]["content"]["application/json"]
    assert body["schema"]["additionalProperties"] is False
    assert all(field["description"] for field in body["schema"]["properties"].values())
    assert {
        example["value"].keys() & {"query", "queries"} != set()
        for example in (body["examples"].values())
    } == {True}
    assert set(route["responses"]) == {"200", "400", "413", "415", "422", "503"}
    for status in ("400", "413", "415", "422", "503"):
        schema = route["responses"][status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert all(
        operation["summary"] and operation["description"]
        for path in api["paths"].values()
        for operation in path.values()
    )


def test_the_examples_of_openapi_are_answered(start: Start) -> None:
    client = start().client
    body = client.get("/openapi.json").json()["paths"]["/v1/route"]["post"]["requestBody"]
    for example in body["content"]["application/json"]["examples"].values():
        assert client.post("/v1/route", json=example["value"]).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_loads_scripts_from_elsewhere(start: Start, path: str) -> None:
    assert start().client.get(path).status_code == 404


def test_no_foreign_page_is_let_in(start: Start) -> None:
    answer = start().client.options(
        "/v1/route", headers={"origin": "https://evil", "access-control-request-method": "POST"}
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
