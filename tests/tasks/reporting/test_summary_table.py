from data_contracts.evaluation import BASE_STUDENT, EvaluationSummary, Latency
from tasks.reporting.summary_table import WIDTH, console_table
from tests.tasks.reporting import factory


def test_the_table_has_a_line_a_candidate_and_says_what_was_read() -> None:
    lines = console_table(factory.summary()).splitlines()
    assert lines[0].split() == [
        *("candidate", "rubric", "[95%]", "judge", "mae", "dominant", "valid"),
        *("mean", "ms", "p99", "ms", "$/1k"),
    ]
    assert lines[3].split()[:4] == ["distilled-student", "4.03", "[3.92,", "4.14]"]
    assert len(lines) == 8
    assert lines[-1] == "120 held-out queries (benchmark); ~ simulated"


def test_simulated_dollars_are_marked_and_real_ones_are_not() -> None:
    _, _, base, _, local, *_ = console_table(factory.summary()).splitlines()
    assert base.endswith("~$0.0224")
    assert local.endswith(" $0")


def test_the_note_on_simulated_dollars_stands_only_where_there_are_some() -> None:
    assert "simulated" not in console_table(factory.summary((factory.LOCAL_STUDENT,)))


def test_without_a_judge_a_dash_stands_for_its_score() -> None:
    line = console_table(factory.summary((BASE_STUDENT,), judged=False)).splitlines()[2]
    assert line.split()[4] == "–"


def test_no_line_is_wider_than_a_hundred_columns_whatever_the_values() -> None:
    candidate = factory.summary((BASE_STUDENT,)).benchmark[0]
    wide = candidate.model_copy(
        update={
            "name": "x" * 60,
            "latency_ms": Latency(mean=123_456.0, p50=1, p95=1, p99=9_876_543.0),
            "cost_per_1k_usd": 0.000000123,
        }
    )
    table = console_table(EvaluationSummary(run_id="run-1", benchmark=(candidate, wide)))
    assert max(map(len, table.splitlines())) <= WIDTH
    assert "xxx…" in table


def test_an_evaluation_without_candidates_says_so() -> None:
    empty = EvaluationSummary(run_id="run-1", benchmark=())
    assert console_table(empty) == "No candidate was evaluated."
