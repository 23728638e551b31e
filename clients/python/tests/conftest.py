"""What tests share: a client of either kind, and the server that scripts/test-python-client.sh started."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import matchpoint

REPOSITORY = Path(__file__).resolve().parents[3]
PHOTOS = REPOSITORY / "examples" / "photos"


class Blocking:
    """An AsyncClient that is used as a Client, so that one test holds both."""

    def __init__(self, client: matchpoint.AsyncDeployment, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return self._waited(value) if callable(value) else value

    def _waited(self, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            if inspect.isawaitable(result):
                return self._loop.run_until_complete(_awaited(result))
            if isinstance(result, AsyncIterator):
                return self._each(result)
            return Blocking(result, self._loop)

        return call

    def _each(self, results: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(_awaited(results.__anext__()))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(_awaited(results.aclose()))  # type: ignore[attr-defined]

    def done(self) -> None:
        self.close()
        self._loop.close()


async def _awaited(result: Any) -> Any:
    return await result


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes clients of one kind, and closes them."""
    made: list[Any] = []

    def make(*arguments: Any, **named: Any) -> Any:
        if request.param == "sync":
            made.append(matchpoint.Client(*arguments, **named))
        else:
            made.append(Blocking(matchpoint.AsyncClient(*arguments, **named), asyncio.new_event_loop()))
        return made[-1]

    yield make
    for client in made:
        client.close() if isinstance(client, matchpoint.Client) else client.done()


@pytest.fixture
def client(connect: Any) -> Any:
    """A client of the server that is served for the tests."""
    if "MATCHPOINT_SERVER" not in os.environ:
        pytest.skip("no server: scripts/test-python-client.sh starts one")
    return connect()
