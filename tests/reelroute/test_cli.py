"""`reelroute route`: a query a line in, a JSON object a line out, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import reelroute.cli
from reelroute import __version__
from reelroute.cli import main
from reelroute.release import Release
from tasks.releases import POINTER_KEY, current_pointer
from tests.conftest import Finished
from tests.support import CallsSince, Place, corpus_rows, fault

FIELDS = ["query", "visual", "audio", "transcription", "metadata", "reasoning", "router"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def routed(*arguments: str) -> Result:
    done = run("route", *arguments)
    assert done.exit_code == 0, done.output
    return done


def refused(*arguments: str, code: int = 1) -> str:
    done = run("route", *arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done.output


def test_a_query_is_answered_as_one_line_of_json(finished: Finished) -> None:
    done = routed("CEO  discussing quarterly earnings ", "--config", finished.config)
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert list(answer) == FIELDS
    assert answer["query"] == "CEO discussing quarterly earnings"
    assert sum(answer[name] for name in FIELDS[1:5]) == pytest.approx(1)
    assert answer["router"] == "bedrock"
    assert answer["reasoning"]


def test_a_file_is_routed_in_its_order(finished: Finished, tmp_path: Path) -> None:
    queries = [row.query for row in corpus_rows(12)]
    queries.append(queries[0])
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n\n".join(queries) + "\n   \n", encoding="utf-8")
    done = routed("--input", str(source), "--output", str(output), "--config", finished.config)
    assert done.stdout == ""
    assert f"{len(queries)} queries routed" in done.stderr
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["query"] for answer in answers] == queries
    assert all(list(answer) == FIELDS for answer in answers)
    assert answers[0] == answers[-1]


def test_without_an_output_file_answers_go_to_stdout(finished: Finished, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes("\ufeffein Hund bellt ☀\r\nsunset\r\n".encode())
    done = routed("--input", str(source), "--config", finished.config)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == ["ein Hund bellt ☀", "sunset"]
    assert "☀" in done.stdout


def test_a_jsonl_file_holds_objects_with_a_query(finished: Finished, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"query": "a dog", "visual": 0.4}\n\n{"query": "rain"}\n', encoding="utf-8")
    done = routed("--input", str(source), "--config", finished.config)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == ["a dog", "rain"]


@pytest.mark.parametrize("line", ["a dog", '{"text": "a dog"}', '{"query": 3}', '["query"]', "["])
def test_another_line_of_a_jsonl_file_is_named(
    line: str, finished: Finished, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"query": "fine"}}\n{line}\n', encoding="utf-8")
    said = refused("--input", str(source), "--config", finished.config)
    assert f"{source}, line 2: a line of a .jsonl file is a JSON object with a text" in said


def test_an_empty_file_has_no_answers(finished: Finished, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes(b"\n\n")
    routed("--input", str(source), "--output", str(output), "--config", finished.config)
    assert output.read_bytes() == b""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"fine", b"caf\xe9 at night"], "line 2 is not UTF-8: save it as UTF-8"),
        ([b"fine", b"fine", b"x" * 10_000], "line 3: the query has 10000 characters, at most 1000"),
    ],
)
def test_a_line_that_cannot_be_a_query_is_named_and_nothing_is_written(
    lines: list[bytes], said: str, finished: Finished, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    output.write_text("what was there\n")
    arguments = ("--input", str(source), "--output", str(output), "--config", finished.config)
    assert f"{source}, {said}" in refused(*arguments)
    assert output.read_text() == "what was there\n"
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.jsonl"}


def test_a_model_that_is_lost_halfway_leaves_the_old_output(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    output.write_text("what was there\n")
    opened = reelroute.cli._opened

    def opened_then_lost(*arguments: object) -> object:
        router = opened(*arguments)  # type: ignore[arg-type]
        finished.place.aws.faults.set("wrong-credentials")
        return router

    monkeypatch.setattr(reelroute.cli, "_opened", opened_then_lost)
    try:
        said = refused("--input", str(source), "--output", str(output), "--config", finished.config)
    finally:
        finished.place.aws.faults.clear()
    assert "AWS refused the credentials" in said
    assert output.read_text() == "what was there\n"
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.jsonl"}


def test_an_output_that_cannot_be_written_is_named(finished: Finished, tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "out.jsonl"
    said = refused("a dog", "--output", str(output), "--config", finished.config)
    assert f"{output} can't be written" in said


@pytest.mark.parametrize("query", ["", "   ", "x" * 1001])
def test_what_is_no_query_is_one_sentence_and_asks_no_model(
    query: str, finished: Finished, calls: CallsSince
) -> None:
    assert "the query " in refused(query, "--config", finished.config)
    assert calls.asked() == 0


def test_query_and_file_exclude_each_other(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a\n")
    for arguments in ((), ("a dog", "--input", str(source))):
        assert "give either a QUERY or --input FILE" in refused(*arguments, code=2)


def test_a_file_that_is_not_there_is_named() -> None:
    assert "nowhere.txt" in refused("--input", "nowhere.txt", code=2)


def test_before_the_first_release_it_says_so(place: Place) -> None:
    said = refused("a dog", "--config", place.profile())
    assert f"s3://{place.bucket}/{POINTER_KEY} doesn't exist: no release yet?" in said


def test_a_release_that_was_changed_is_not_used(finished: Finished, place: Place) -> None:
    copied(finished, place, spoil=True)
    assert "hash differs" in refused("a dog", "--config", place.profile())


def test_half_a_pointer_is_not_used(place: Place) -> None:
    place.storage().put(POINTER_KEY, b'{"version": "a-1", "sha')
    assert "is not a release pointer" in refused("a dog", "--config", place.profile())


def test_a_release_may_lie_in_files(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = current_pointer(finished.run.storage)
    assert current is not None
    version = current.pointer.version
    for name in ("current", version):
        stored = finished.run.storage.get(f"releases/{name}.json")
        assert stored is not None
        (tmp_path / f"{name}.json").write_bytes(stored.data)
    aws = finished.place.aws
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(aws.credentials_file))
    monkeypatch.setenv("AWS_PROFILE", aws.profile)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint_url)
    monkeypatch.setenv("AWS_REGION", aws.region)
    monkeypatch.setenv("AWS_DEFAULT_REGION", aws.region)
    done = routed("a dog barking", "--release", str(tmp_path / "current.json"))
    assert json.loads(done.stdout)["router"] == "bedrock"


def test_wrong_credentials_are_one_sentence(finished: Finished) -> None:
    with fault(finished.place.aws, "wrong-credentials"):
        assert "AWS refused the credentials" in refused("a dog", "--config", finished.config)


def test_version_and_commands_are_shown() -> None:
    assert __version__ in run("--version").output
    said = run("--help").output
    for command in ("route", "run", "stage", "runs", "report", "rollback"):
        assert f"\n  {command} " in said


def test_an_unknown_command_is_refused() -> None:
    done = run("rout")
    assert done.exit_code == 2
    assert "No such command 'rout'" in done.output


def copied(finished: Finished, place: Place, *, spoil: bool = False) -> None:
    """The finished pipeline's release in another bucket."""
    current = current_pointer(finished.run.storage)
    assert current is not None
    for name in (POINTER_KEY, f"releases/{current.pointer.version}.json"):
        stored = finished.run.storage.get(name)
        assert stored is not None
        data = stored.data
        if spoil and name != POINTER_KEY:
            data = Release.model_validate_json(data).model_copy(update={"run_id": "x"}).to_bytes()
        place.storage().put(name, data)
