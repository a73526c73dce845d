"""What a user's configuration may be told."""


class ConfigError(Exception):
    """What is wrong with a configuration, in the user's words: file, key, cure."""
