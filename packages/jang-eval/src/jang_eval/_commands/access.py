"""Options that say how servers are spoken to, and as whom; all secrets are in files."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

_TARGET: Final = "Access to the server"
_REFERENCE: Final = "Access to the reference, where it is a server"

_TLS: Final = "Encrypt, and check the server's certificate; implied by --{0}-ca and --{0}-cert."
_CA: Final = "PEM file: who may sign the server's certificate; default: the system's authorities."
_CERT: Final = "PEM file: your own certificate, for servers that ask for one."
_KEY: Final = "PEM file: its private key."
_TOKEN: Final = "File that holds the token for servers that ask for one, and nothing else."

TlsOption: TypeAlias = Annotated[
    bool, typer.Option("--tls", help=_TLS.format("tls"), rich_help_panel=_TARGET)
]
TlsCaOption: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help=_CA, rich_help_panel=_TARGET)
]
TlsCertOption: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help=_CERT, rich_help_panel=_TARGET)
]
TlsKeyOption: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help=_KEY, rich_help_panel=_TARGET)
]
TokenFileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help=_TOKEN, rich_help_panel=_TARGET),
]

ReferenceTlsOption: TypeAlias = Annotated[
    bool,
    typer.Option("--reference-tls", help=_TLS.format("reference-tls"), rich_help_panel=_REFERENCE),
]
ReferenceTlsCaOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--reference-tls-ca", metavar="FILE", help=_CA, rich_help_panel=_REFERENCE),
]
ReferenceTlsCertOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--reference-tls-cert", metavar="FILE", help=_CERT, rich_help_panel=_REFERENCE),
]
ReferenceTlsKeyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--reference-tls-key", metavar="FILE", help=_KEY, rich_help_panel=_REFERENCE),
]
ReferenceTokenFileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--reference-token-file", metavar="FILE", help=_TOKEN, rich_help_panel=_REFERENCE),
]
