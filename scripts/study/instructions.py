"""Until the table moves here."""

from arms.model.cpu import INSTRUCTIONS  # noqa: F401
