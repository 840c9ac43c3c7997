"""What the commands of `python -m serving` do that serve or load; `__main__.py` reads their arguments.

Those that ask are in `client/commands.py`.
"""

from argparse import Namespace
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from protos.errors import Unavailable
from serving import arguments, demo, loadtest, tables
from serving.address import host_of, is_loopback
from serving.command import Misuse, Result
from serving.tokens import new_token


def serve(parsed: Namespace, ready: Callable[[Result], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called as soon as requests are answered."""
    from serving import service  # only this command needs the towers' runtime

    plan = arguments.plan(parsed)
    try:
        service.serve(plan, lambda serving: ready((serving.document(), lambda console: None)))
    except ValueError as error:
        raise Misuse(str(error)) from None


def token(parsed: Namespace) -> Result:
    """A new token, told once, and what the token file must say of it."""
    secret, entry = new_token(parsed.name, parsed.role)

    def show(console: Console) -> None:
        console.print(f"The token, which is told only now:\n\n{secret}\n", markup=False, highlight=False)
        console.print(f"Add this to the file that --tokens names:\n\n{entry}", markup=False, highlight=False)

    return {"token": secret, "entry": entry}, show


def show_all(parsed: Namespace) -> Result:
    """Serve, ask the first examples, sum up, and stop."""
    folder = arguments.folder(parsed)
    output = Console(stderr=True) if parsed.json else tables.console()
    document = demo.run(folder, output)

    def show(console: Console) -> None:
        console.print("6/6  summary", highlight=False)
        tables.show_pairs(console, demo.summary(document["manifest"]))

    return document, show


def load(parsed: Namespace) -> Result:
    """Send load to a server on this machine."""
    if not is_loopback(host_of(parsed.address)):
        raise Misuse(f"--address: {parsed.address} is not this machine; load stays on loopback")
    if parsed.queries:
        queries = loadtest.read_queries(parsed.queries)
    else:
        queries = loadtest.example_queries(parsed.address)
    plan = loadtest.Load(parsed.clients, parsed.seconds, parsed.k, seed=parsed.seed)
    columns = (TextColumn("load"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("load", total=plan.seconds)
        report = loadtest.run(
            parsed.address,
            queries,
            plan,
            lambda seconds: progress.update(task, completed=seconds),
        )
    if "search_p50_ms" not in report:
        raise Unavailable(f"{parsed.address}: no request was answered: {report['errors']}")
    return report, lambda console: tables.show_pairs(console, report)
