"""The monitor: a record, a report and at most one event for a window."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State

import flows.monitor
from data_contracts.monitoring import PRODUCTION_DOMAIN, ProductionQuery, WindowRecord
from data_contracts.queries import LabelledQuery
from flows.monitor import monitor
from tasks.monitor.records import MonitorFolder
from tests.support import Place, corpus_rows, jsonl, record
from tests.tasks.monitor.factory import END, WINDOW, line, traffic, write
from tests.tasks.test_releases import move_to, release

pytestmark = pytest.mark.usefixtures("prefect_server")

ROWS = corpus_rows(400)
#: Traffic of another kind: what leads is speech.
SPEECH = tuple(row for row in ROWS if row.channel == "transcription")
KEY = f"monitor/local/{WINDOW.name}.json"


@dataclass
class Events:
    """What the flow has emitted."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    server: bool = True

    def emit(self, event: str, **fields: Any) -> object | None:
        if not self.server:
            return None
        self.sent.append({"event": event, **fields})
        return object()


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    found = Events()
    monkeypatch.setattr(flows.monitor, "emit_event", found.emit)
    return found


def look(place: Place, logs: Path | None = None, **overrides: Any) -> State[Any]:
    config = place.profile(**{"monitor__min_queries": 50, **overrides})
    end = END
    state: State[Any] = monitor(end, config, str(logs) if logs else None, return_state=True)
    return state


def upload(place: Place, name: str, path: Path) -> None:
    place.storage().put(f"logs/router/{name}", path.read_bytes())


def written(place: Place) -> WindowRecord:
    found = MonitorFolder(place.storage(), "local").record(WINDOW)
    assert found is not None
    return found


def release_trained_on(place: Place, rows: tuple[LabelledQuery, ...]) -> None:
    """A current release whose run was trained on these rows."""
    run = place.run()
    file = run.put_text("dataset/train.jsonl", jsonl(rows))
    run.write_record(record(run, "validate", files={"train": file}))
    move_to(place.storage(), release())


@pytest.fixture
def released(place: Place) -> Place:
    release_trained_on(place, ROWS)
    return place


def test_an_unchanged_window_leaves_a_record_and_no_event(
    released: Place, tmp_path: Path, events: Events
) -> None:
    upload(released, "a.jsonl.gz", write(tmp_path / "a.jsonl.gz", traffic(ROWS, 600)))
    upload(released, "b.jsonl", write(tmp_path / "b.jsonl", [*traffic(ROWS, 300, seed=2), "{\n"]))
    upload(released, "notes.txt", write(tmp_path / "notes.txt", ["no log"]))
    state = look(released)
    assert state.is_completed(), state.message
    found = written(released)
    assert found.aggregate.lines.model_dump(exclude_defaults=True) == {
        "read": 901,
        "requests": 900,
        "malformed": 1,
    }
    assert found.release == "run-1-aaaa"
    assert {c.reference for c in found.comparisons} == {"training"}
    assert found.drifted == ()
    assert events.sent == []
    assert "900 requests, 900 queries, 1 malformed lines; no drift" in (state.message or "")


def test_a_changed_mix_is_told_once_with_its_evidence(
    released: Place, tmp_path: Path, events: Events
) -> None:
    logs = write(tmp_path / "a.jsonl", traffic(SPEECH, 500))
    state = look(released, logs)
    assert state.is_completed(), state.message
    assert "drift in channel/training" in (state.message or "")
    (event,) = events.sent
    assert event["event"] == "reelroute.drift.detected"
    assert event["resource"]["prefect.resource.id"] == "reelroute.environment.local"
    payload = event["payload"]
    told = {measure["measure"]: measure for measure in payload["measures"]}
    assert told["channel"]["value"] > told["channel"]["threshold"] > 0
    assert told["channel"]["reference"] == "training"
    assert payload["record"] == f"s3://{released.bucket}/{KEY}"
    assert payload["queries"].startswith(f"s3://{released.bucket}/monitor/local/")
    assert len(json.dumps(payload)) < 20_000

    before = {key: released.storage().get(key) for key in released.storage().keys("monitor/")}
    write(logs, traffic(ROWS, 500))
    again = look(released, logs)
    assert again.name == "Skipped"
    assert len(events.sent) == 1
    after = {key: released.storage().get(key) for key in released.storage().keys("monitor/")}
    assert after == before


def test_an_event_that_could_not_be_sent_is_sent_by_the_next_run_of_the_window(
    released: Place, tmp_path: Path, events: Events
) -> None:
    logs = write(tmp_path / "a.jsonl", traffic(SPEECH, 500))
    events.server = False
    look(released, logs)
    assert events.sent == []
    events.server = True
    look(released, logs)
    look(released, logs)
    assert len(events.sent) == 1


def test_drift_that_was_told_of_is_not_told_again_by_the_next_window(
    released: Place, tmp_path: Path, events: Events
) -> None:
    for hours in (0, 1):
        window = WINDOW.model_copy(
            update={
                "start": WINDOW.start - timedelta(hours=1 - hours),
                "end": WINDOW.end - timedelta(hours=1 - hours),
            }
        )
        logs = write(tmp_path / f"{hours}.jsonl", traffic(SPEECH, 500, window))
        config = released.profile(monitor__min_queries=50)
        state = monitor(window.end, config, str(logs), return_state=True)
        assert "drift in channel/training" in (state.message or "")
    assert len(events.sent) == 1
    assert written(released).new_drift == ()
    beside = {c.name: c for c in written(released).comparisons}
    assert not beside["channel/before"].drifted


def test_a_new_release_may_drift_anew(released: Place, tmp_path: Path, events: Events) -> None:
    logs = write(tmp_path / "a.jsonl", traffic(SPEECH, 500))
    look(released, logs)
    move_to(released.storage(), release("run-1-bbbb"))
    later = WINDOW.model_copy(update={"start": WINDOW.end, "end": END + timedelta(hours=1)})
    logs = write(tmp_path / "b.jsonl", traffic(SPEECH, 500, later))
    config = released.profile(monitor__min_queries=50)
    monitor(later.end, config, str(logs), return_state=True)
    assert [event["payload"]["release"] for event in events.sent] == ["run-1-aaaa", "run-1-bbbb"]


def test_a_release_that_learned_from_production_is_compared_with_what_it_learned_there(
    place: Place, tmp_path: Path, events: Events
) -> None:
    production = tuple(row.model_copy(update={"domain": PRODUCTION_DOMAIN}) for row in SPEECH)
    others = tuple(row for row in ROWS if row not in SPEECH)
    release_trained_on(place, (*others, *production))
    assert len(production) >= 50
    look(place, write(tmp_path / "a.jsonl", traffic(SPEECH, 500)), monitor__min_queries=50)
    assert not [c for c in written(place).drifted if c.measure == "channel"]


def test_a_popular_query_is_no_drift_from_a_training_set_which_holds_each_once(
    released: Place, tmp_path: Path, events: Events
) -> None:
    lines = [*traffic(ROWS, 1500), *[line(SPEECH[:1]).to_line()] * 1500]
    look(released, write(tmp_path / "a.jsonl", lines))
    assert written(released).drifted == ()
    assert events.sent == []


def test_before_the_first_release_windows_are_compared_with_each_other(
    place: Place, tmp_path: Path, events: Events
) -> None:
    calm = traffic(ROWS, 400, WINDOW.before)
    slow = traffic(ROWS, 400, fallback=True, latency_ms=9.0)
    logs = tmp_path / "logs"
    write(logs / "before.jsonl", calm)
    write(logs / "deeper" / "now.jsonl.gz", slow)
    state = look(place, logs)
    assert state.is_completed(), state.message
    assert {c.name for c in written(place).drifted} == {"fallback/before", "latency/before"}
    assert [m["measure"] for m in events.sent[0]["payload"]["measures"]] == ["fallback", "latency"]


def test_a_small_window_says_too_few_and_is_no_drift(
    released: Place, tmp_path: Path, events: Events
) -> None:
    look(released, write(tmp_path / "a.jsonl", traffic(SPEECH, 150)), monitor__min_queries=200)
    assert written(released).drifted == ()
    assert {c.value for c in written(released).comparisons} == {None}
    assert re.search(r"too few \(\d+\)", artifact())
    assert events.sent == []


def test_queries_are_sampled_masked_and_counted(released: Place, tmp_path: Path) -> None:
    strange = [
        ROWS[0].model_copy(update={"query": "voicemail of jane@example.com"}),
        ROWS[0].model_copy(update={"query": "two\nlines"}),
    ]
    lines = [*traffic(ROWS, 300), *(line([row]).to_line() for row in strange)]
    look(released, write(tmp_path / "a.jsonl", lines), monitor__sample_size=1000)
    found = written(released)
    assert found.sample is not None
    stored = released.storage().get(found.sample.removeprefix(f"s3://{released.bucket}/"))
    assert stored is not None
    queries = [ProductionQuery.model_validate_json(text) for text in stored.data.splitlines()]
    texts = {query.query for query in queries}
    assert "voicemail of [email]" in texts
    assert texts - {"voicemail of [email]"} <= {row.query for row in ROWS}
    assert len(queries) == found.sampled == len(texts)
    assert found.refused == {"holds control characters": 1}


def test_nothing_to_look_at_leaves_no_record(released: Place, tmp_path: Path) -> None:
    state = look(released)
    assert state.is_completed()
    assert "no logs to look at" in (state.message or "")
    look(released, write(tmp_path / "a.jsonl", traffic(ROWS, 10, WINDOW.before)))
    assert list(released.storage().keys("monitor/")) == []


@pytest.mark.parametrize(
    "data",
    [b"no gzip", bytes.fromhex("1f8b0800000000000003") + b"\xff" * 99],
    ids=["not", "damaged"],
)
def test_a_file_that_can_not_be_read_is_named(data: bytes, released: Place, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write(logs / "good.jsonl", traffic(ROWS, 300))
    write(logs / "bad.jsonl.gz", traffic(ROWS, 300)).write_bytes(data)
    state = look(released, logs)
    assert "1 files can't be read" in (state.message or "")
    assert list(written(released).aggregate.unreadable) == ["bad.jsonl.gz"]
    assert str(tmp_path) not in written(released).model_dump_json()
    assert "bad.jsonl.gz can't be read" in artifact()


def test_what_logs_hold_is_inert_in_the_report(place: Place, tmp_path: Path) -> None:
    release_trained_on(place, ROWS[:5])
    row = ROWS[9].model_copy(update={"query": "<script>alert(1)</script>"})
    evil = json.loads(line([row]).to_line())
    evil["queries"][0]["script"] = "|<b>x"
    text = json.dumps(evil) + "\n"
    look(place, write(tmp_path / "a.jsonl", [text] * 300), monitor__min_queries=5)
    assert "<b>" not in artifact()
    assert "<script>" not in artifact()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: {"storage__bucket": "not-there"}, "the bucket doesn't exist"),
        (lambda place: {"monitor__min_querys": 5}, "did you mean `monitor.min_queries`?"),
        (lambda place: {"monitor__thresholds__channel": 0}, "monitor.thresholds.channel"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    change: Callable[[Place], dict[str, Any]], said: str, place: Place, events: Events
) -> None:
    state = look(place, **change(place))
    assert state.is_failed()
    assert said in (state.message or "")


def test_logs_that_are_not_there_and_windows_of_the_future_are_refused(place: Place) -> None:
    state = look(place, Path("/nowhere/logs"))
    assert state.is_failed()
    assert "there is no such file or folder" in (state.message or "")
    state = monitor(END + timedelta(days=9999), place.profile(), return_state=True)
    assert "in the future" in (state.message or "")


def artifact() -> str:
    """The report that was shown last."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["monitor"]))
        )
    newest = max(found, key=lambda one: one.created)
    return str(newest.data)
