"""One way of labelling queries, in a process of its own.

    python -m benchmarks.label.ask stage CONFIG RUN_ID      the label stage, as the pipeline runs it
    python -m benchmarks.label.ask script QUERIES THREADS   a plain script over a thread pool

It prints what it took as JSON. Where Bedrock and S3 are is told by the environment
(`AWS_ENDPOINT_URL_BEDROCK_RUNTIME`, `AWS_ENDPOINT_URL_S3`).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

MODEL = "embedded.teacher-v1:0"


def stage(config: str, run_id: str) -> dict[str, Any]:
    """The label stage of a run that was started."""
    from configs.settings import load_settings
    from flows.label import label
    from tasks.runs import Run
    from tasks.storage import Storage

    started = time.perf_counter()
    state = cast(Any, label)(run_id, config, return_state=True)
    seconds = time.perf_counter() - started
    if not state.is_completed():
        raise SystemExit(str(state.message))
    record = Run(Storage(load_settings(config)), run_id).completed("label")
    return {"seconds": seconds, "labelled": record.metrics["accepted"]}


def script(queries: str, threads: str) -> dict[str, Any]:
    """What one would write: a pool of threads, a list of answers, a file at the end."""
    import boto3
    from botocore.config import Config

    from configs.settings import CONFIGS

    prompt = (CONFIGS / "prompts" / "router.md").read_text("utf-8").strip()
    started = time.perf_counter()
    client = boto3.client(
        "bedrock-runtime",
        config=Config(
            max_pool_connections=int(threads),
            retries={"mode": "standard", "total_max_attempts": 10},
        ),
    )

    def ask(query: str) -> dict[str, Any]:
        answer = client.converse(
            modelId=MODEL,
            system=[{"text": prompt}],
            messages=[{"role": "user", "content": [{"text": query}]}],
            inferenceConfig={"maxTokens": 300, "temperature": 0},
        )
        text = answer["output"]["message"]["content"][0]["text"]
        return {"query": query, **json.loads(text)}

    lines = Path(queries).read_text("utf-8").splitlines()
    with ThreadPoolExecutor(int(threads)) as pool:
        rows = list(pool.map(ask, lines))
    Path(queries).with_suffix(".labelled").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), "utf-8"
    )
    return {"seconds": time.perf_counter() - started, "labelled": len(rows)}


def main() -> None:
    """Label, and print what it took."""
    way, *arguments = sys.argv[1:]
    took = {"stage": stage, "script": script}[way](*arguments)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Its ru_maxrss would begin with the parent's memory.
    status = Path("/proc/self/status").read_text("ascii").partition("VmHWM:")[2]
    took["peak_mb"] = int(status.split()[0]) * 1024 / 1e6
    took["cpu_seconds"] = usage.ru_utime + usage.ru_stime
    print(json.dumps(took))


if __name__ == "__main__":
    main()
