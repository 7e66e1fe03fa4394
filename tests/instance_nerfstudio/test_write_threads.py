"""Everything is written, and an error is not lost."""

import threading
import time

import pytest

from instance_nerfstudio.write_threads import WriteThreads


def test_all_is_done_when_the_context_ends() -> None:
    done: list[tuple[int, threading.Thread]] = []

    def work(number: int) -> None:
        time.sleep(0.001)
        done.append((number, threading.current_thread()))

    with WriteThreads() as threads:
        for number in range(50):
            threads.submit(work, number)
    assert sorted(number for number, _ in done) == list(range(50))
    assert threading.main_thread() not in {thread for _, thread in done}


@pytest.mark.parametrize("after", [0, 40])
def test_an_error_comes_out(after: int) -> None:
    def fail() -> None:
        raise OSError("disk full")

    def write() -> None:
        with WriteThreads() as threads:
            threads.submit(fail)
            for _ in range(after):
                threads.submit(int)

    with pytest.raises(OSError, match="disk full"):
        write()


def test_an_interrupt_drops_what_waits() -> None:
    begun: list[int] = []
    hold = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        hold.wait(5)

    def write() -> None:
        with WriteThreads() as threads:
            for number in range(10):
                threads.submit(work, number)
            threading.Timer(0.2, hold.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert len(begun) < 10
