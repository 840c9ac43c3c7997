"""The errors' one docstring tells the truth about them."""

import inspect

from twinspire.protos import errors


def test_the_tree_in_the_docstring_shows_every_class_under_its_base() -> None:
    classes = dict(inspect.getmembers(errors, inspect.isclass))
    lines = (errors.__doc__ or "").splitlines()
    shown: dict[str, str] = {}
    path: list[str] = []
    for line in lines:
        name = line.strip("│├└─ ").partition(" ")[0]
        if name in classes:
            depth = (len(line) - len(line.lstrip("│├└─ "))) // 4 - 1
            path[depth:] = [name]
            shown[name] = path[depth - 1] if depth else "Exception"
    assert shown == {name: each.__mro__[1].__name__ for name, each in classes.items()}
