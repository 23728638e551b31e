"""Many calls with a bound on how many are under way, in order or as they come."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import aclosing
from typing import TypeVar

from .errors import MatchpointError
from .results import Outcome

Q = TypeVar("Q")
R = TypeVar("R")

# What is read ahead, as a multiple of what is under way: in order, one that is slow holds up those behind it.
_AHEAD = 2


def check_many(given: object, in_flight: int) -> None:
    """Refuses what was not meant: a path or the bytes of one picture are many letters or numbers, too."""
    if isinstance(given, (str, bytes, bytearray, memoryview, os.PathLike)):
        kind = type(given).__name__
        raise TypeError(f"search_many takes many queries, and a {kind} is one; use search, or a list")
    if not 1 <= in_flight <= 1000:
        raise ValueError(f"in_flight is {in_flight}; it is the number of calls under way at once, 1 to 1000")


def _checked(outcome: Outcome[Q, R]) -> Outcome[Q, R]:
    """Raises what any other would meet too, and mistakes of the program; an error of one alone stays in its place."""
    error = outcome.error
    alone = isinstance(error, (MatchpointError, OSError, ValueError)) and not getattr(error, "ends_run", False)
    if error is not None and not alone:
        raise error
    return outcome


def in_threads(
    work: Callable[[Q], R], given: Iterable[Q], in_flight: int, ordered: bool
) -> Iterator[Outcome[Q, R]]:
    """Each is worked on in one of `in_flight` threads. What is not taken is not begun, beyond a few ahead."""

    def one(index: int, query: Q) -> Outcome[Q, R]:
        try:
            return Outcome(index, query, None, work(query))
        except Exception as error:
            return Outcome(index, query, error, None)

    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="matchpoint")
    waiting: deque[Future[Outcome[Q, R]]] = deque()
    try:
        for index, query in enumerate(given):
            waiting.append(pool.submit(one, index, query))
            while waiting and (len(waiting) >= in_flight * _AHEAD or _has_one(waiting, ordered)):
                yield _take(waiting, ordered)
        while waiting:
            yield _take(waiting, ordered)
    finally:
        # Those under way end by themselves; nobody waits for them.
        pool.shutdown(wait=False, cancel_futures=True)


def _has_one(waiting: deque[Future[Outcome[Q, R]]], ordered: bool) -> bool:
    return waiting[0].done() if ordered else any(future.done() for future in waiting)


def _take(waiting: deque[Future[Outcome[Q, R]]], ordered: bool) -> Outcome[Q, R]:
    if not ordered:
        wait(waiting, return_when=FIRST_COMPLETED)
        first = next(at for at, future in enumerate(waiting) if future.done())
        waiting.rotate(-first)
    return _checked(waiting.popleft().result())


async def in_tasks(
    work: Callable[[Q], Awaitable[R]], given: Iterable[Q] | AsyncIterable[Q], in_flight: int, ordered: bool
) -> AsyncIterator[Outcome[Q, R]]:
    """The same with tasks of the running loop."""
    places = asyncio.Semaphore(in_flight)

    async def one(index: int, query: Q) -> Outcome[Q, R]:
        async with places:
            try:
                return Outcome(index, query, None, await work(query))
            except Exception as error:
                return Outcome(index, query, error, None)

    async def take() -> Outcome[Q, R]:
        if not ordered:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            first = next(at for at, task in enumerate(waiting) if task.done())
            waiting.rotate(-first)
        return _checked(await waiting.popleft())

    def has_one() -> bool:
        return waiting[0].done() if ordered else any(task.done() for task in waiting)

    waiting: deque[asyncio.Task[Outcome[Q, R]]] = deque()
    index = 0
    try:
        async with aclosing(each(given)) as queries:
            async for query in queries:
                waiting.append(asyncio.create_task(one(index, query)))
                index += 1
                while waiting and (len(waiting) >= in_flight * _AHEAD or has_one()):
                    yield await take()
        while waiting:
            yield await take()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def each(given: Iterable[Q] | AsyncIterable[Q]) -> AsyncGenerator[Q, None]:
    """One after the other. To be closed by whoever stops before the end: a loop that ends has no time for it."""
    if isinstance(given, AsyncIterable):
        async for one in given:
            yield one
    else:
        for one in given:
            yield one
