"""Errors of jang-quant.

JangQuantError
├── SourceError        the source cannot be read, or is not a model that can be converted
├── PlanError          no plan: unknown role or profile, or bits and groups that do not fit
└── ConversionError    the output cannot be written where it was asked for
"""


class JangQuantError(Exception):
    """Root of all errors that a user of jang-quant can cause; the message is one line."""


class SourceError(JangQuantError):
    """The source cannot be read, or is not a model that can be converted."""


class PlanError(JangQuantError):
    """No plan can be made: an unknown role or profile, or bits and groups that do not fit."""


class ConversionError(JangQuantError):
    """The output cannot be written where it was asked for."""
