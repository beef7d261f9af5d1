"""Fresh processes: where they import from, how their answers come, and the clock that judges their silence."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness import processes
from harness.errors import BudgetError, CannotContinueError
from harness.processes import AwakeClock, EndedError, Surroundings, call_apart, helper_environment


def add(one: int, other: int) -> int:
    print("a function that prints to stdout")
    return one + other


def refuse() -> None:
    raise BudgetError("it is too large")


def fail() -> None:
    raise ValueError("two\nlines")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(0)


def leave_politely() -> None:
    raise SystemExit(4)


def hang() -> None:
    time.sleep(600)


def unsendable() -> object:
    return threading.Lock()


def leave_a_thread() -> str:
    threading.Thread(target=hang).start()
    return "answered"


def test_function_answers_from_a_fresh_process(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_apart(add, 1, 2, seconds=60) == 3
    assert capfd.readouterr().out == ""
    assert call_apart(leave_a_thread, seconds=60) == "answered"
    with pytest.raises(BudgetError, match=r"^it is too large$"):
        call_apart(refuse, seconds=60)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (fail, r"^failed: ValueError: two lines$"),
        (leave, "^ended with exit code 0$"),
        (leave_politely, "^failed: SystemExit: 4$"),
        (unsendable, "^failed: its answer can't be sent"),
        pytest.param(
            crash, "^was killed by SIGKILL", marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals")
        ),
    ],
)
def test_function_without_an_answer_is_told_by_its_end(function: object, said: str) -> None:
    with pytest.raises(EndedError, match=said):
        call_apart(function, seconds=60)  # type: ignore[arg-type]


def test_function_that_hangs_is_ended() -> None:
    with pytest.raises(EndedError, match=r"^took longer than 1 seconds and was ended$"):
        call_apart(hang, seconds=1)


def test_clock_counts_a_pause_as_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("harness.processes.time.monotonic", lambda: now[0])
    clock = AwakeClock()
    for gap in (0.1, 0.1, 3600.0, 0.1):
        now[0] += gap
        seconds = clock.seconds()
    assert seconds == pytest.approx(1.3)


def test_helpers_import_from_where_this_process_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    environment = helper_environment()
    assert environment["PYTHONSAFEPATH"] == "1"
    first, *others = environment["PYTHONPATH"].split(os.pathsep)
    assert first == str(tmp_path)
    assert "" not in others


def test_environment_is_as_before_after_a_start() -> None:
    before, folder = dict(os.environ), tempfile.tempdir or tempfile.gettempdir()
    call_apart(add, 1, 2, seconds=60)
    assert dict(os.environ) == before
    assert tempfile.gettempdir() == folder


def test_processes_are_spawned_if_the_fork_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_it() -> None:
        raise OSError("no socket")

    monkeypatch.setattr(processes, "_ensure_fork_server", refuse_it)
    monkeypatch.setattr(processes, "forks_workers", lambda devices: True)
    said: list[str] = []
    process = processes.start_process(("cpu",), time.sleep, 0, say=said.append)
    process.join(60)
    assert process.exitcode == 0
    assert said == ["Processes start slowly, because the fork server does not start: OSError: no socket."]


def test_folder_that_is_gone_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    with pytest.raises(CannotContinueError, match="no longer exists"):
        Surroundings.here()
