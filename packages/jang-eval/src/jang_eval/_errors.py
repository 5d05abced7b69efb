"""Errors of jang-eval.

JangEvalError
├── OptionError        an option is outside of what it allows
├── TargetError        the server's address is bad, or the server is away, slow, or refuses
├── DataError          the data of a task cannot be read, or are not in a form that it knows
├── ProgramError       another program that is needed is not there, or has failed
├── SandboxError       generated code cannot be run, or not kept in
├── ResultFileError    a result file cannot be read or written, or is not one
└── ComparisonError    results that do not answer the same questions under the same rules
"""


class JangEvalError(Exception):
    """Root of all errors that a user of jang-eval can cause; the message is one line."""


class OptionError(JangEvalError):
    """An option is outside of what it allows."""


class TargetError(JangEvalError):
    """The server's address is bad, or the server is unreachable, too slow, or refuses."""


class DataError(JangEvalError):
    """The data of a task cannot be read, or are not in a form that the task knows."""


class ProgramError(JangEvalError):
    """Another program that is needed is not installed, or has failed."""


class SandboxError(JangEvalError):
    """Generated code cannot be run, or cannot be kept from doing harm."""


class ResultFileError(JangEvalError):
    """A result file cannot be read or written, or does not hold a result."""


class ComparisonError(JangEvalError):
    """Results differ in task version, questions or data, so comparing them says nothing."""
