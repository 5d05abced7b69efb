"""The version of this package, where modules can read it without importing the package."""

__version__ = "0.1.0"
