"""Real signals to this process."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from stepsmith.discovery.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_ends_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_in_another_thread_signals_are_left_alone():
    def asked():
        with interruptible() as stop:
            return stop.requested, signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asked).result() == (False, signal.getsignal(signal.SIGINT))
