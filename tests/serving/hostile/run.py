"""One run: the service, the well-behaved clients, the attackers, and what came of it.

The figures before the attack are taken after a few seconds of good calls, those after it `rest` seconds after
the last attacker has ended. Every attacker is a process of its own with an address of its own (127.0.1.x).
It has a lower priority than the service and the good clients, since real attackers use other machines.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.serving import haproxy
from tests.serving.hostile import attacks, gateway_attacks, good, idle
from tests.serving.hostile.connection import Attack
from tests.serving.hostile.service import Service, Used, serving
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.serving.client import RetrievalClient

GROUPS: dict[str, tuple[Callable[[Attack], None], ...]] = {
    "bombs": (attacks.large_batches, attacks.large_messages, attacks.broken_messages, attacks.broken_frames),
    "floods": (attacks.pings, attacks.settings, attacks.resets, attacks.headers, attacks.continuations),
    "silent": (idle.idle_connections, idle.half_frames, idle.prefaces, idle.silent_calls),
    "unread": (attacks.unread_calls, attacks.unread_sockets),
    "watch": (attacks.watches, attacks.streams),
    "cancels": (attacks.cancels,),
    "gateway": gateway_attacks.ALL,
    "kills": (),  # by this process itself
}
KILLS, GATEWAY = "kills", "gateway"
BEHIND_HAPROXY = (  # as serving/deploy/haproxy.cfg says
    *("--connections", "2048", "--connections-per-address", "2048"),
    *("--connection-unsent-bytes", "67108864"),
)
NICE = 5  # of attackers
WARM_UP = 5.0  # seconds of good calls before the figures from before are taken, at most
SLICE = 0.25  # seconds between two looks at the service
CALIBRATION = 2.0  # seconds of searches that measure the speed of the machine
SETTLE = 1.0  # seconds for the service to see that connections have been closed
PATIENCE = 30.0  # seconds for a child process to hand over its figures
FORK = multiprocessing.get_context("fork")  # for attackers: imports are paid for once
SPAWN = multiprocessing.get_context("spawn")  # for the good clients: gRPC should not be forked


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        bundle: that is served.
        seconds: of attack.
        rest: seconds between the end of the attack and the last figures.
        only: groups or single attackers; all if empty.
        rate: calls a second of the good client on one connection.
        new_rate: calls a second of the good client that connects for each call.
        http_rate: calls a second of the good client of the gateway.
        kill_every: seconds between two kills of a worker.
        workers: of the service.
        flags: further flags of the service.
        behind_haproxy: whether everything reaches the service through HAProxy.
        one_core: whether the service, the gateway and the attackers share one core; the good clients have the
            others, as clients have machines of their own.
        at_once: whether all attackers are there from the beginning to the end; otherwise those of the service
            and those of the gateway take turns, and on one core one group after the other.
    """

    bundle: Path
    seconds: float = 180.0
    rest: float = 60.0
    only: Sequence[str] = ()
    rate: float = 50.0
    new_rate: float = 20.0
    http_rate: float = 30.0
    kill_every: float = 20.0
    workers: int = 2
    flags: Sequence[str] = ()
    behind_haproxy: bool = False
    one_core: bool = False
    at_once: bool = False

    def rounds(self) -> dict[str, list[Callable[[Attack], None]]]:
        """The attackers that are started together, by the name of their round."""
        found: dict[str, list[Callable[[Attack], None]]] = {}
        for group, attackers in GROUPS.items():
            if self.at_once:
                name = "all"
            elif self.one_core:
                name = group
            else:
                name = GATEWAY if group == GATEWAY else "service"
            wanted = [each for each in attackers if not self.only or {group, each.__name__} & set(self.only)]
            if wanted:
                found.setdefault(name, []).extend(wanted)
        return found or {KILLS: []}  # with `only` = kills there are no attackers

    @property
    def kills(self) -> bool:
        """Whether workers are killed."""
        return not self.only or KILLS in self.only


def names() -> list[str]:
    """Everything that `only` may hold."""
    return [*GROUPS, *(attacker.__name__ for attackers in GROUPS.values() for attacker in attackers)]


def run(plan: Plan) -> dict[str, Any]:
    """Attack, and give the figures.

    Raises:
        InvalidInput: the machine has one core alone, and none for the good clients.
        Unavailable: the service or HAProxy did not start.
    """
    with _first_core(plan.one_core):
        return _serve_and_attack(plan)


@contextmanager
def _first_core(one_core: bool) -> Iterator[None]:
    """Let this process, and those that it starts, run on one core, if that is wanted."""
    cores = os.sched_getaffinity(0)
    if one_core:
        if len(cores) < 2:
            raise InvalidInput(
                "one_core", "expected a second core, for the good clients; this machine has one"
            )
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _serve_and_attack(plan: Plan) -> dict[str, Any]:
    flags = [*(BEHIND_HAPROXY if plan.behind_haproxy else ()), *plan.flags]
    with serving(plan.bundle, plan.workers, flags) as service:
        front = haproxy.running(service.address) if plan.behind_haproxy else nullcontext(service.address)
        with front as address:
            return _run(plan, service, address)


def _run(plan: Plan, service: Service, address: str) -> dict[str, Any]:
    warm_up = min(WARM_UP, plan.seconds)
    _good_calls(plan, service, address, warm_up, 1, lambda: None)
    gateway_attacks.open_calls(service.http_address, 16, min(1.0, warm_up))
    time.sleep(SETTLE)
    calibration = _searches_per_second(address)
    before, descriptors = service.resident(), service.descriptors()
    each_before = service.resident_each()
    seen: dict[str, Any] = {}

    def attack() -> None:
        seen.update(_attack(plan, service, address))

    one, new, http = _good_calls(plan, service, address, plan.seconds, len(plan.rounds()), attack)
    peak = max(seen.pop("resident_peak"), service.resident())
    time.sleep(plan.rest)
    after = service.resident()
    return {
        "good_share_one_connection": one["share"],
        "good_share_new_connections": new["share"],
        "good_share_http": http["share"],
        "rss_peak_ratio": round(peak / before, 3),
        "rss_after_ratio": round(after / before, 3),
        "descriptors_left": service.descriptors() - descriptors,
        "calibration_searches_per_second": calibration,
        "seconds": plan.seconds,
        "rest_seconds": plan.rest,
        "behind_haproxy": plan.behind_haproxy,
        "one_core": plan.one_core,
        "rounds": list(plan.rounds()),
        "resident_mib": {"before": before >> 20, "peak": peak >> 20, "after": after >> 20},
        "resident_mib_each": {"before": each_before, "after": service.resident_each()},
        "descriptors_before": descriptors,
        "one_connection": one,
        "new_connections": new,
        "over_http": http,
        **seen,
        "log_bytes": service.log_bytes(),
        "log_end": service.log_end(),
        "exit_code": service.exit_code(),
    }


def _searches_per_second(address: str) -> float:
    """Searches of one client, one after the other, before the attack: the speed of this machine."""
    with RetrievalClient(address) as client:
        count, until = 0, time.monotonic() + CALIBRATION
        while time.monotonic() < until:
            client.search(good.QUERIES[0], k=good.K)
            count += 1
    return round(count / CALIBRATION, 1)


def _good_calls(
    plan: Plan, service: Service, address: str, seconds: float, rounds: int, meanwhile: Callable[[], None]
) -> tuple[dict[str, Any], ...]:
    """The figures of the good clients."""
    clients = (
        (good.one_connection, address, plan.rate),
        (good.new_connections, address, plan.new_rate),
        (good.over_http, service.http_address, plan.http_rate),
    )
    one, new, http = (
        _Child(SPAWN, good.on_cores, plan.one_core, client, where, rate, seconds, rounds)
        for client, where, rate in clients
    )
    meanwhile()
    return one.result(seconds), new.result(seconds), http.result(seconds)


def _attack(plan: Plan, service: Service, address: str) -> dict[str, Any]:
    """Start the attackers of each round, kill workers, and watch the service until the attack is over."""
    rounds, began = plan.rounds(), time.monotonic()
    kill_due = began + plan.kill_every / 2
    rng = random.Random(0)
    attackers: list[psutil.Process] = []
    kills, peak, used = 0, 0, Used({"service": service.processes, "attackers": lambda: attackers})
    counts: dict[str, dict[str, int]] = {}
    number = 0
    for ended, together in enumerate(rounds.values(), 1):
        until = began + plan.seconds * ended / len(rounds)
        children, attackers = {}, []
        for attacker in together:
            number += 1
            target = service.http_address if attacker in gateway_attacks.ALL else address
            attack = Attack("127.0.0.1", int(target.rpartition(":")[2]), f"127.0.1.{number}", until, number)
            children[attacker.__name__] = child = _Child(FORK, _attacker, attacker, attack)
            attackers.append(psutil.Process(child.pid))  # before it may have ended
        while time.monotonic() < until:
            peak = max(peak, service.resident())
            used.look()
            if plan.kills and time.monotonic() > kill_due:
                kill_due += plan.kill_every
                kills += service.kill_worker(rng)
            time.sleep(SLICE)
        counts |= {name: child.result(0) for name, child in children.items()}
    counts |= {KILLS: {"workers killed": kills}} if plan.kills else {}
    return {
        "resident_peak": peak,
        "service_cpu_seconds": round(used.seconds["service"], 1),
        "share_of_a_core": {name: round(each / plan.seconds, 3) for name, each in used.seconds.items()},
        "cores": len(os.sched_getaffinity(0)),
        "attacks": counts,
    }


def _attacker(attacker: Callable[[Attack], None], attack: Attack) -> dict[str, int]:
    os.nice(NICE)
    attacker(attack)
    return dict(attack.counts)


class _Child:
    """A function in a process of its own, and what it returned."""

    def __init__(self, context: Any, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        self._name = function.__name__
        self._mine, others = context.Pipe(duplex=False)
        self._process = context.Process(target=_hand_over, args=(others, function, arguments), daemon=True)
        self._process.start()
        self.pid = int(self._process.pid)
        others.close()

    def result(self, seconds: float) -> dict[str, Any]:
        """What the function returned; it should return within `seconds`.

        Raises:
            Unavailable: the process gave nothing in time, or has died.
        """
        try:
            if not self._mine.poll(seconds + PATIENCE):
                raise EOFError
            found: dict[str, Any] = self._mine.recv()
        except EOFError:
            self._process.join(1.0)
            code = self._process.exitcode
            raise Unavailable(f"{self._name}: this process gave no figures; exit code {code}") from None
        finally:
            self._mine.close()
            self._process.join(1.0)
            self._process.kill()
        return found


def _hand_over(pipe: Pipe, function: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    pipe.send(function(*arguments))
    pipe.close()
    os._exit(0)  # not after threads whose calls do not end
