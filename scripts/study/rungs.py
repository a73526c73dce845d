"""Until the pure part of arms.memory.ladder moves here."""

from arms.memory.ladder import memory_key, recorded  # noqa: F401
