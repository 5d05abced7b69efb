"""Errors of jang-format.

JangFormatError
├── MissingFileError         a file that the directory has to have is not there
├── InvalidFileError         a file's content breaks the format
├── UnsupportedVersionError  the directory is of a version that this package does not know
├── InvalidTensorError       an array does not fit what is asked of it
└── OutputError              the output cannot be written where it was asked for
"""


class JangFormatError(Exception):
    """Root of all errors of jang-format; the message is one line."""


class MissingFileError(JangFormatError):
    """A file that the directory has to have is not there."""


class InvalidFileError(JangFormatError):
    """A file's content breaks the format.

    Args:
        file: The file, as the user can find it.
        field: The key, tensor or offset inside it.
        found: What stands there.
        expected: What the format wants there.
    """

    def __init__(self, file: object, field: str, found: object, expected: str) -> None:
        super().__init__(f"{file}: {field}: found {found}, expected {expected}")
        self.file = str(file)
        self.field = field
        self.found = str(found)
        self.expected = expected


class UnsupportedVersionError(JangFormatError):
    """The directory is of a version that this package does not know."""


class InvalidTensorError(JangFormatError):
    """An array does not fit what is asked of it: shape, dtype, bits or group size."""


class OutputError(JangFormatError):
    """The output cannot be written where it was asked for."""
