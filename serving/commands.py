"""What the commands of `python -m serving` do that serve or load; `__main__.py` reads their arguments.

Those that ask are in `client/commands.py`.
"""

from argparse import Namespace
from collections.abc import Callable

from rich.console import Console

from protos.errors import MissingStage
from serving import arguments, demo, tables
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
    """Measure a bundle's service under load, or put load on a server of this machine."""
    try:
        from serving.load import command  # serving itself does without what this needs
    except ModuleNotFoundError as error:
        raise _missing("load test", error) from None
    return command.run(parsed)


def swap_test(parsed: Namespace) -> Result:
    """Swap two bundles under load, and look at every answer."""
    try:
        from serving.load import swap_test
    except ModuleNotFoundError as error:
        raise _missing("swap test", error) from None
    return swap_test.run(parsed)


def _missing(test: str, error: ModuleNotFoundError) -> MissingStage:
    return MissingStage(f"the {test} takes {error.name}; install it with: pip install .[load]")
