"""A teacher at the wire that answers after a fixed time, and enforces a quota if told.

    python -m benchmarks.label.stub PORT LATENCY_SECONDS [REQUESTS_PER_MINUTE]

speaks Bedrock's Converse at `/model/…/converse`, and the chat completions that other clients
speak at `/v1/chat/completions`. `/stats` tells what it saw since it was last asked. Over the
quota, counted in a window that slides over 60 s, it answers with ThrottlingException as the
service does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ANSWER = json.dumps(
    {
        "visual": 0.55,
        "audio": 0.1,
        "transcription": 0.15,
        "metadata": 0.2,
        "reasoning": "The query names what the picture shows, with little hint of sound or words "
        "that are said, so the visual channel leads.",
    }
)
_USAGE = (640, 60)


class Teacher:
    """The server, as an ASGI application."""

    def __init__(self, latency_seconds: float, per_minute: float | None) -> None:
        self._latency = latency_seconds
        self._per_minute = per_minute
        self._accepted: deque[float] = deque()
        self._reset()

    def _reset(self) -> None:
        self._asked = self._throttled = self._in_flight = self._most = 0
        self._first = self._last = 0.0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        if path == "/stats":
            answer = {
                "asked": self._asked,
                "throttled": self._throttled,
                "most_in_flight": self._most,
                "seconds": self._last - self._first,
            }
            self._reset()
            await _reply(send, 200, answer)
        elif not self._admits():
            await _reply(
                send,
                429,
                {"message": "Too many requests, please wait before trying again."},
                (b"x-amzn-errortype", b"ThrottlingException"),
            )
        else:
            await self._answer(path, send)

    def _admits(self) -> bool:
        now = time.monotonic()
        self._asked += 1
        self._first = self._first or now
        while self._accepted and self._accepted[0] <= now - 60:
            self._accepted.popleft()
        if self._per_minute and len(self._accepted) >= self._per_minute:
            self._throttled += 1
            return False
        self._accepted.append(now)
        return True

    async def _answer(self, path: str, send: Send) -> None:
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        await asyncio.sleep(self._latency)
        self._in_flight -= 1
        self._last = time.monotonic()
        inputs, outputs = _USAGE
        message: Message
        if path.endswith("/converse"):
            message = {
                "output": {"message": {"role": "assistant", "content": [{"text": ANSWER}]}},
                "stopReason": "end_turn",
                "usage": {
                    "inputTokens": inputs,
                    "outputTokens": outputs,
                    "totalTokens": inputs + outputs,
                },
                "metrics": {"latencyMs": round(self._latency * 1000)},
            }
        else:
            message = {
                "id": "stub",
                "object": "chat.completion",
                "created": 0,
                "model": "stub",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": ANSWER},
                    }
                ],
                "usage": {
                    "prompt_tokens": inputs,
                    "completion_tokens": outputs,
                    "total_tokens": inputs + outputs,
                },
            }
        await _reply(send, 200, message)


async def _reply(send: Send, status: int, message: Message, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps(message).encode()
    common = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until ended."""
    port, latency, *quota = sys.argv[1:]
    teacher = Teacher(float(latency), float(quota[0]) if quota else None)
    uvicorn.run(teacher, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
