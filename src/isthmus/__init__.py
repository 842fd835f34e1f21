"""Container networking: Docker's network modes for anything that has a network namespace."""

__version__ = "0.1.0"
