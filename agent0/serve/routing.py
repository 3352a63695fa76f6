"""The loaded adapters, and which of them answers a request: stable, or the canary for its share of the users."""

import hashlib
import threading
from dataclasses import dataclass
from typing import Protocol

from agent0.command import log

BASE, STABLE = "base", "council"
MAX_ADAPTERS = 32


class UnknownAdapter(KeyError):
    """No adapter of that name is loaded."""


class Named(Protocol):
    name: str


@dataclass(frozen=True)
class Route:
    """Who answers requests that name no adapter: `canary` takes the fraction `share` of them, `stable` the rest.

    `shadow` answers copies of what others answer, and nobody sees what it says: it is only counted.
    """

    stable: Named
    canary: Named | None = None
    share: float = 0.0
    shadow: Named | None = None

    def pick(self, key: str) -> Named:
        """The adapter for a user or a request: the same for the same key, and a growing share keeps whom it has."""
        return self.canary if self.canary and place(self.canary.name, key) < self.share else self.stable


def place(canary: str, key: str) -> float:
    """Where a key stands in [0, 1) for this canary: by hash, so that each canary has guinea pigs of its own."""
    digest = hashlib.sha256(f"{canary}\0{key}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Router:
    """Adapters by name, `base` always among them. Safe to use from any thread."""

    def __init__(self, base: Named, model: str):
        self._lock, self._reserved = threading.Lock(), (BASE, STABLE, model)
        self._adapters = {BASE: base}
        self._route = Route(base)

    @property
    def names(self) -> list[str]:
        return list(self._adapters)

    @property
    def stable(self) -> str:
        return self._route.stable.name

    @property
    def routing(self) -> dict:
        """The route as /health and /v1/route say it."""
        route = self._route
        canary, shadow = (adapter and adapter.name for adapter in (route.canary, route.shadow))
        return {"stable": route.stable.name, "canary": canary, "share": route.share, "shadow": shadow}

    def shadow_of(self, model: str, answering: str) -> str | None:
        """Who gets a copy of a request that names `model` and that `answering` answers; None: nobody."""
        shadow = self.routing["shadow"]
        return shadow if model in self._reserved[1:] and shadow != answering else None

    def resolve(self, model: str, key: str) -> Named:
        """The adapter for a request that names `model`, of the user or request `key`. Raises UnknownAdapter."""
        if model in self._reserved[1:]:
            return self._route.pick(key)
        return self._find(model)

    def check_new(self, name: str) -> None:
        """Raise ValueError where no adapter of that name may be loaded."""
        if name in self._reserved:
            raise ValueError(f"{name!r} always stands for what the server has; give the adapter another name")
        if name in self._adapters:
            raise ValueError(f"adapter {name!r} is already loaded; unload it first, or give the new one a new name")
        if len(self._adapters) > MAX_ADAPTERS:
            raise ValueError(f"{MAX_ADAPTERS} adapters are loaded already; unload one first")

    def add(self, adapter: Named) -> None:
        """Take in a loaded adapter. Raises ValueError like check_new."""
        with self._lock:
            self.check_new(adapter.name)
            self._adapters[adapter.name] = adapter
        log.info("loaded adapter %s", adapter.name)

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that run on it finish. Raises UnknownAdapter, or ValueError if it serves."""
        with self._lock:
            self._find(name)
            if name in (BASE, *self.routing.values()):
                raise ValueError(f"adapter {name!r} serves; route to another one first")
            del self._adapters[name]
        log.info("unloaded adapter %s", name)

    def route(self, stable: str, canary: str | None = None, share: float = 0.0, shadow: str | None = None) -> str:
        """Set who answers requests that name no adapter; return the previous stable one.

        Raises UnknownAdapter, or ValueError for a share without a canary or outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share {share} is not between 0 and 1")
        if canary is None and share:
            raise ValueError(f"share {share} needs a canary: name a loaded adapter")
        with self._lock:
            previous = self.stable
            first, second, third = (self._find(name) if name else None for name in (stable, canary, shadow))
            self._route = Route(first, second, share, third)
        log.info("route: %s -> %s%s", previous, stable, f", {share:.0%} to {canary}" if canary else "")
        return previous

    def _find(self, name: str) -> Named:
        try:
            return self._adapters[name]
        except KeyError:
            raise UnknownAdapter(name) from None
