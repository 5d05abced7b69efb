"""The command `kl`."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from jang_eval._access import read_access
from jang_eval._commands.access import (
    ReferenceTlsCaOption,
    ReferenceTlsCertOption,
    ReferenceTlsKeyOption,
    ReferenceTlsOption,
    ReferenceTokenFileOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TlsOption,
    TokenFileOption,
)
from jang_eval._commands.options import (
    DEFAULT_TIMEOUT,
    InFlightOption,
    JsonOption,
    OutputOption,
    ReferenceOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
    is_reference_file,
)
from jang_eval._commands.running import run_and_print
from jang_eval._commands.windows import (
    ConventionOption,
    MostOption,
    StrideOption,
    TextsOption,
    WindowOption,
    whole_windows,
)
from jang_eval._errors import OptionError
from jang_eval._hub import local_texts
from jang_eval._reference.protocols import Reference
from jang_eval._reference.reader import ReferenceFile
from jang_eval._reference.served import ServerReference
from jang_eval._target import Target
from jang_eval._tasks.kl import task
from jang_eval._windows import Convention, Windowing


def kl(
    target: TargetOption,
    data: TextsOption,
    reference: ReferenceOption,
    convention: ConventionOption = Convention.STRIDED,
    window: WindowOption = None,
    stride: StrideOption = None,
    windows: MostOption = None,
    output: OutputOption = None,
    in_flight: InFlightOption = 2,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
    reference_tls: ReferenceTlsOption = False,
    reference_tls_ca: ReferenceTlsCaOption = None,
    reference_tls_cert: ReferenceTlsCertOption = None,
    reference_tls_key: ReferenceTlsKeyOption = None,
    reference_token_file: ReferenceTokenFileOption = None,
) -> None:
    """Measure how far a model is from a reference: KL divergence, agreement, probabilities."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    reference_access = read_access(
        reference_tls,
        reference_tls_ca,
        reference_tls_cert,
        reference_tls_key,
        reference_token_file,
        prefix="reference_",
    )
    cutting = whole_windows(convention, window, stride, windows)
    is_default = convention is Convention.STRIDED and (window, stride, windows) == (None,) * 3
    with ExitStack() as stack:
        server = stack.enter_context(Target(target, timeout=timeout, access=access))
        known: Reference
        if is_reference_file(reference):
            known = ReferenceFile(Path(reference))
            cutting = _of_the_file(known, Path(reference), cutting, is_default)
        else:
            known = ServerReference(
                stack.enter_context(Target(reference, timeout=timeout, access=reference_access))
            )
        found = stack.enter_context(local_texts(data))
        asked = task(server, known, found.paths, cutting, seed)
        run_and_print(
            replace(asked, data_source=found.source),
            target=target,
            access=access,
            timeout=timeout,
            in_flight=in_flight,
            output=output,
            as_json=as_json,
        )


def _of_the_file(known: ReferenceFile, path: Path, asked: Windowing, is_default: bool) -> Windowing:
    found = known.header.windowing
    if found is None:
        raise OptionError(
            f"reference: found {path} of prompts, expected one that `reference --data` wrote"
        )
    if not is_default and asked.settings != found.settings:
        shown = ", ".join(f"{name} {value}" for name, value in found.settings.items())
        raise OptionError(f"windows: found others than the reference has, expected {shown}")
    return found
