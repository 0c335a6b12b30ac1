"""Work by several threads: in order, bounded, and the first error at its place."""

import threading
import time

import pytest

from bitnet_jax.core.ordered import in_order


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_order(jobs):
    def work(n):
        time.sleep(0.002 * (n % 3))
        return n

    assert list(in_order(work, range(30), jobs=jobs, cost=lambda n: 1, room=100)) == [*range(30)]


def test_no_more_is_under_way_than_there_is_room_for():
    guard, used, most = threading.Lock(), 0, 0

    def work(n):
        nonlocal used, most
        with guard:
            used += n
            most = max(most, used)
        time.sleep(0.001)
        return n

    for n in in_order(work, [3, 3, 9, 1, 1, 1, 4, 4, 20, 2], jobs=4, cost=lambda n: n, room=10):
        with guard:
            used -= n
    assert most <= 20  # what costs more than the room goes alone


def test_an_error_comes_at_its_place_and_nothing_is_begun_after_it():
    begun = []

    def work(n):
        begun.append(n)
        if n == 2:
            raise ValueError(n)
        return n

    results = in_order(work, range(1000), jobs=2, cost=lambda n: 1, room=10)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(results)
    assert len(begun) < 20


def test_who_asks_for_no_more_leaves_no_thread_behind():
    before = threading.active_count()
    results = in_order(lambda n: n, range(100), jobs=3, cost=lambda n: 1, room=10)
    next(results)
    results.close()
    assert threading.active_count() == before
