"""The same queries through Bespoke Curator, in a Python that has it (`bespokelabs-curator`).

    PYTHON benchmarks/label/curator.py QUERIES CONCURRENT URL

Curator brings many packages, so it lives in a Python of its own: nothing of the checkout is
imported. URL speaks chat completions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

PROMPT = Path(__file__).parents[2] / "configs" / "prompts" / "router.md"


def main() -> None:
    """Label, and print what it took as JSON."""
    queries, concurrent, url = sys.argv[1:]
    litellm = importlib.util.find_spec("litellm")
    folders = litellm.submodule_search_locations if litellm else None
    # Its tokenizer is fetched from the network, unless another package's copy is named.
    tokenizers = Path(folders[0] if folders else "", "litellm_core_utils", "tokenizers")
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {
            "CURATOR_CACHE_DIR": cache,
            "CURATOR_DISABLE_CACHE": "1",
            "CURATOR_DISABLE_RICH_DISPLAY": "1",
            "TELEMETRY_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENAI_API_KEY": "none",
            "TIKTOKEN_CACHE_DIR": str(tokenizers),
        }
        from bespokelabs import curator
        from datasets import Dataset

        prompt = PROMPT.read_text("utf-8").strip()

        class Router(curator.LLM):  # type: ignore[misc]
            def prompt(self, row: dict[str, str]) -> list[dict[str, str]]:
                return [
                    {"role": "system", "content": prompt},
                    {"role": "user", "content": row["query"]},
                ]

            def parse(self, row: dict[str, str], answer: str) -> dict[str, str]:
                return {"query": row["query"], **json.loads(answer)}

        lines = Path(queries).read_text("utf-8").splitlines()
        started = time.perf_counter()
        router = Router(
            model_name="gpt-4o-mini",
            backend="openai",
            backend_params={
                "base_url": url,
                "max_concurrent_requests": int(concurrent),
                "max_requests_per_minute": 1_000_000,
                "max_tokens_per_minute": 1_000_000_000,
            },
        )
        found = router(Dataset.from_dict({"query": lines}))
        rows = getattr(found, "dataset", found)
        seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text("ascii").partition("VmHWM:")[2]
    took = {
        "seconds": seconds,
        "labelled": len(rows),
        "peak_mb": int(status.split()[0]) * 1024 / 1e6,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main()
