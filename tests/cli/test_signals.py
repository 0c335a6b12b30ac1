"""A signal stops a command at once, except inside JAX: there, right after."""

import os
import signal
import time

import pytest

from bitnet_cli.signals import RAISED, Terminated, stoppable, telling


@pytest.mark.parametrize("number", RAISED)
def test_a_signal_raises_and_the_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(RAISED[number]), stoppable():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert signal.getsignal(number) == before


def inside(package, body):
    """Runs `body` below a frame of a module of `package`."""
    space = {"__name__": package, "body": body}
    exec("def call(): body()", space)
    space["call"]()


def test_inside_jax_it_waits_until_jax_has_returned():
    done = []

    def body():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        done.append(True)

    with pytest.raises(Terminated), stoppable():
        inside("jax.core", body)
        time.sleep(5)
    assert done
    with pytest.raises(Terminated), stoppable():
        inside("ajax.core", body)
    assert done == [True]


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_import_is_let_end_unless_it_never_does(monkeypatch):
    done = []

    def body():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        done.append(True)
        time.sleep(1)
        done.append(True)

    with pytest.raises(Terminated), stoppable():
        inside("importlib._bootstrap", lambda: os.kill(os.getpid(), signal.SIGTERM))
        time.sleep(5)
    monkeypatch.setattr("bitnet_cli.signals._IMPORT_SECONDS", 0.3)
    with pytest.raises(Terminated), stoppable():
        inside("importlib._bootstrap", body)
    assert done == [True]


def test_two_presses_at_once_are_one_and_a_later_one_counts_again():
    with stoppable():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.4)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_while_the_end_is_told_nothing_stops_it():
    with telling(130):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)


@pytest.mark.parametrize("number", RAISED)
def test_a_signal_in_a_callback_of_the_collector_waits_and_is_not_lost(number):
    class Held:
        def __del__(self):
            os.kill(os.getpid(), number)
            for _ in range(1000):  # the handler runs in here
                pass

    with pytest.raises(RAISED[number]), stoppable():
        held = Held()
        del held
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(0.001)
