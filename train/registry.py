"""Implementations registered by the class of their configuration, one module for each.

    OBJECTIVES: Registry[type[Objective[Any]]] = Registry("twinspire.train.losses.*")

    @OBJECTIVES.register(Bce)
    class BceObjective(Objective[Bce]): ...

    OBJECTIVES.find(experiment.loss)

A new module registers itself: no list has to be extended.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Configuration class -> implementation.

    Args:
        modules: the modules that register implementations: all modules of a package, such as
            `train.losses.*`. They are imported by the first `find`.
    """

    def __init__(self, modules: str) -> None:
        self._modules = modules
        self._imported = False
        self._implementations: dict[type, T] = {}

    def register(self, config: type) -> Callable[[T], T]:
        """A decorator that registers an implementation for a configuration class."""

        def registered(implementation: T) -> T:
            self._implementations[config] = implementation
            return implementation

        return registered

    def find(self, config: object) -> T:
        """The implementation for a configuration.

        Raises:
            LookupError: no module registers one.
        """
        if not self._imported:
            package = importlib.import_module(self._modules.removesuffix(".*"))
            for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
                importlib.import_module(module.name)
            self._imported = True
        try:
            return self._implementations[type(config)]
        except KeyError:
            raise LookupError(
                f"{self._modules}: no module registers an implementation for {type(config).__name__}"
            ) from None
