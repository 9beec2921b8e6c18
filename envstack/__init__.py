"""envstack: a union mount for every working directory, with checkpoints."""

__version__ = "0.1.0"
