"""Work on many things by several threads, its results in the order of the things.

What is under way is bounded by what it costs in memory. Knows nothing of what is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Thing], Result],
    things: Sequence[Thing],
    *,
    jobs: int,
    cost: Callable[[Thing], int],
    room: int,
) -> Iterator[Result]:
    """Yields ``work(thing)`` for each thing, in order.

    Args:
      jobs: threads; with 1, each is done where it is asked for.
      cost: bytes that a thing takes from its start until the next result is asked for.
      room: bytes that may be under way together; a thing that costs more goes alone.

    Raises:
      What `work` raises, at its place; nothing is begun after that.
    """
    if jobs <= 1 or len(things) <= 1:
        yield from map(work, things)
        return
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="tensors")
    waiting: deque[tuple[Future[Result], int]] = deque()
    left, used = deque(things), 0
    try:
        while left or waiting:
            while left and len(waiting) < 2 * jobs:
                price = cost(left[0])
                if waiting and used + price > room:
                    break
                waiting.append((pool.submit(work, left.popleft()), price))
                used += price
            future, price = waiting.popleft()
            yield future.result()
            del future  # it holds its result
            used -= price
    finally:
        for future, _ in waiting:
            future.cancel()
        pool.shutdown(wait=True)
