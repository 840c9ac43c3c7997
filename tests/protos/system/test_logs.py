"""What processes log, as lines and as JSON."""

import json
import os
import subprocess
import sys
from typing import Any

from twinspire.protos.system import logs

PROGRAM = """
import logging, sys, threading, warnings
from twinspire.protos.system import logs
logs.log_to_stderr()
log = logging.getLogger("shop")
log.info("a %s\\nb", "line")
log.debug("not shown")
with logs.answering("mine-1"):
    log.warning("of a request")
{more}
"""
OTHERS = """
warnings.warn("of Python", UserWarning, stacklevel=1)
print("printed", file=sys.stderr)
sys.stderr.write("in two "); sys.stderr.write("parts\\n\\n")
print("error: it failed", file=sys.stderr, flush=True)
logging.StreamHandler().handle(logging.makeLogRecord({"name": "x", "msg": "of another handler"}))
try:
    raise ValueError("wrong")
except ValueError:
    log.exception("caught")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
leaver = threading.Thread(target=lambda: sys.exit(3))
leaver.start()
leaver.join()
sys.stderr.write("without an end")
raise RuntimeError("uncaught")
"""


def logged(program: str, kind: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if kind is None else {logs.FORMAT: kind})}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )


def test_lines_have_time_level_module_and_the_id_of_a_request() -> None:
    first, second, third = logged(PROGRAM.format(more=""), None).stderr.splitlines()
    assert first.endswith(" INFO shop: a line")
    assert second == "b"
    assert third.endswith(" WARNING shop [mine-1]: of a request")


def test_every_line_is_json_where_that_is_asked_for() -> None:
    done = logged(PROGRAM.format(more=OTHERS), "json")
    assert done.returncode == 1
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    for each in lines:
        assert {"time", "level", "logger", "process", "message"} <= {*each}
    assert (lines[0]["message"], lines[0]["level"], lines[0]["logger"]) == ("a line\nb", "INFO", "shop")
    assert "request_id" not in lines[0]
    assert lines[1]["request_id"] == "mine-1"
    (warned,) = [each for each in lines if "UserWarning: of Python" in each["message"]]
    assert warned["logger"] == "py.warnings"
    messages = [each["message"] for each in lines]
    for text in ("printed", "in two parts", "error: it failed", "of another handler"):
        assert text in messages
    assert "" not in messages
    assert lines[messages.index("error: it failed")]["level"] == "ERROR"
    (caught,) = [each for each in lines if each["message"] == "caught"]
    assert caught["traceback"].endswith("ValueError: wrong")
    of_thread, of_process = (each for each in lines if each["message"] == "uncaught exception")
    assert of_thread["traceback"].endswith("ZeroDivisionError: division by zero")
    assert of_process["traceback"].endswith("RuntimeError: uncaught")
    assert {of_thread["level"], of_process["level"]} == {"CRITICAL"}
    assert messages[-1] == "without an end"


THREADS = """
sys.setswitchinterval(1e-6)
def write(name):
    for _ in range(2000):
        print(name * 20, file=sys.stderr)  # text and end one by one
threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
[each.start() for each in threads]
[each.join() for each in threads]
sys.stderr.write("last")
other = threading.Thread(target=sys.stderr.write, args=("of another",))
other.start()
other.join()
"""


def test_threads_do_not_mix_their_lines() -> None:
    lines = [json.loads(line) for line in logged(PROGRAM.format(more=THREADS), "json").stderr.splitlines()]
    written = [each["message"] for each in lines if each["logger"] == "stderr"]
    assert sorted(written) == sorted(
        ["last", "of another", *(name * 20 for name in "abcd" for _ in range(2000))]
    )


def test_another_format_is_refused() -> None:
    done = logged(PROGRAM.format(more=""), "xml")
    assert (done.returncode, done.stderr) == (
        2,
        "error: TWINSPIRE_LOG_FORMAT: expected json or text, got 'xml'\n",
    )
