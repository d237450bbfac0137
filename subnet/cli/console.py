"""What a person sees: results, talk, and errors that become sentences and exit codes, only here.

Rules of the command line:

- results go to stdout, talk to stderr, so that a pipe gets results only;
- ``--json`` prints one JSON object; amounts are strings of integers in units of 10^-18 TENSOR;
- an error is one sentence and one fix; ``--verbose`` adds the traceback;
- exit code 0 is success, 1 a failure, 2 a wrong command line, 3 a time that was over before what
  was waited for, 130 Ctrl-C;
- what can be wrong with the line or its files is said before a password is asked for, before
  the network is used, and before anything slow is imported;
- nothing stays silent for longer than NOTICE_AFTER_S while it waits for others;
- secrets come from files or a prompt, never from the line, and are never printed;
- each command has one file; heavy imports stay inside it, so that ``--help`` is instant.
"""

from __future__ import annotations

import logging
import re
import resource
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from devchain.errors import DevchainError, DevchainUnusable
from keys.errors import (
    BackupDamaged,
    BackupError,
    BackupVersion,
    IdentityFileFormat,
    IdentityFileMissing,
    IdentityFileMode,
    KeyFileExists,
    KeysError,
    SecretFileExposed,
    WrongPassword,
)
from mesh.errors import (
    CalibrationFailed,
    DaemonFailed,
    DeviceUnavailable,
    InexactArithmetic,
    InvalidRequest,
    LayerRangeOutsideModel,
    ManifestMismatch,
    ManifestNotFound,
    MarginTooSmall,
    MeshError,
    ModelError,
    ModelFilesMissing,
    NoCapableRoute,
    NoPeerAnswers,
    NoRoute,
    NotCalibrated,
    PeerRefusal,
    PeerUnreachable,
    PluginError,
    PluginMismatch,
    PluginNotFound,
    QuantisedCheckpoint,
    TransportError,
    UnknownArchitecture,
)
from mesh.inference.threads import wait_passively
from subnet.cli.arguments import list_old_spellings, normalise_arguments
from subnet.cli.command_tree import build_tree, find_command, list_spellings
from subnet.cli.configuration import Line, bind_settings, take_config_option
from subnet.errors import (
    ChainMismatch,
    ChainUnavailable,
    ConfigError,
    ExtrinsicFailed,
    JournalError,
    NotRegistered,
    ReceiptError,
    SubnetError,
    UnknownSubnet,
    UsageError,
)
from subnet.operator.redaction import redact_urls

PROGRAM = "mesh"
NODE_PROGRAM = "mesh-test"
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_INTERRUPTED = 130

NOTICE_AFTER_S = 2.0
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (IdentityFileMissing, "create one with `mesh keygen --dir DIR`"),
    (IdentityFileMode, "run the chmod that the message names"),
    (IdentityFileFormat, "create a new one with `mesh keygen --dir DIR`"),
    (KeyFileExists, "choose another directory; key files are never overwritten"),
    (BackupDamaged, "take another copy of the backup"),
    (BackupVersion, "open it with the release that wrote it"),
    (BackupError, "correct what the message names"),
    (SecretFileExposed, "run the chmod that the message names"),
    (WrongPassword, "check the password file or type the password again"),
    (KeysError, "check the key file that the message names"),
    (ChainUnavailable, "check --chain (or MESH_CHAIN) and that the chain is running"),
    (ChainMismatch, "point --chain at the chain of your subnet"),
    (
        UnknownSubnet,
        "check the subnet's id and --chain: `mesh chain show` lists the subnets of the chain",
    ),
    (
        NotRegistered,
        "check the ids and key files against `mesh chain show`, "
        "or register the node with `mesh chain register-node`",
    ),
    (ExtrinsicFailed, "run `mesh chain show` to see the state that the chain refers to"),
    (
        ModelFilesMissing,
        "name a complete model folder, a GGUF file, or a Hugging Face model that is at hand",
    ),
    (
        QuantisedCheckpoint,
        "name the model's checkpoint in bfloat16, float16 or float32, or a GGUF file; "
        "--quant-type int8 or int4 quantises it when it is loaded",
    ),
    (UnknownArchitecture, "name a model of a supported architecture"),
    (
        NotCalibrated,
        "make it again with `mesh manifest MODEL`; the subnet's owner registers the new hash",
    ),
    (
        ManifestNotFound,
        "copy the file that `mesh manifest` wrote for the subnet's owner into the model's folder",
    ),
    (
        ManifestMismatch,
        "name the model, in the revision and --quant-type that the subnet serves; "
        "a hoster may serve another one with --unpaid",
    ),
    (LayerRangeOutsideModel, "give --block-indices within the model"),
    (
        DeviceUnavailable,
        "give --device cpu, or install a torch that is built for this machine's GPU and driver",
    ),
    (
        MarginTooSmall,
        "take another checkpoint of the model: cheats at this one cannot be told from honest work",
    ),
    (
        InexactArithmetic,
        "unset NVIDIA_TF32_OVERRIDE, TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and "
        "ONEDNN_DEFAULT_FPMATH_MODE, or give --device cpu",
    ),
    (CalibrationFailed, "close what else runs on this machine, and check the model's files"),
    (ModelError, "get the model's files again"),
    (PluginNotFound, "install the package that has it; `mesh plugins` lists what is installed"),
    (
        PluginMismatch,
        "install the version that the subnet's owner publishes; `mesh plugins` shows what is here",
    ),
    (PluginError, "mend the plug-in, or remove its package with `pip uninstall`"),
    (NoPeerAnswers, "check --initial-peers, and that one of these peers runs and can be reached"),
    (PeerUnreachable, "check --initial-peers and that the peer is running"),
    (
        DaemonFailed,
        "correct what p2pd names, or start again: it is the daemon that hivemind brings along, and "
        "needs memory and CPU time of its own",
    ),
    (
        TransportError,
        "check that the peers of --initial-peers, or else the subnet's bootnodes, run and can be "
        "reached; the first node of a swarm takes --new-swarm",
    ),
    (PeerRefusal, "ask another peer, or later"),
    (
        NoCapableRoute,
        "ask without it, or wait until hosters of a newer version serve these blocks",
    ),
    (NoRoute, "wait until hosters serve every block, or raise --max-blocks-per-hop"),
    (InvalidRequest, "correct what the message names"),
)


def explain(error: Exception) -> tuple[str, str]:
    """Return the sentence and the fix for an error that a person can act on."""
    message = str(error) or type(error).__name__
    if isinstance(error, ConfigError | JournalError | ReceiptError | DevchainUnusable):
        return message, error.hint
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return message, hint
    return message, "run again with --verbose to see where it happened"


def say(text: str) -> None:
    """Talk to the person: stderr."""
    sys.stderr.write(f"{make_plain(text)}\n")
    sys.stderr.flush()


@contextmanager
def say_if_slow(text: str) -> Iterator[None]:
    """Say ``text`` once if the block lasts longer than NOTICE_AFTER_S; inside a running loop."""
    import asyncio

    notice = asyncio.get_running_loop().call_later(NOTICE_AFTER_S, say, text)
    try:
        yield
    finally:
        notice.cancel()


def emit(text: str) -> None:
    """Give a result: stdout."""
    sys.stdout.write(f"{make_plain(text)}\n")
    sys.stdout.flush()


def stream(text: str) -> None:
    """Give a part of a result at once: as it is to a pipe, and harmless to a terminal."""
    sys.stdout.write(make_plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def make_plain(text: str) -> str:
    """Return ``text`` with a mark for each control character but tab and line feed.

    Strangers write names, errors and answers, and a control character commands a terminal.
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def fail(message: str, hint: str, *, code: int = EXIT_FAILURE) -> NoReturn:
    """End the command with one sentence and one fix; access tokens in addresses are left out."""
    say(redact_urls(f"error: {message}\nhint: {hint}"))
    raise SystemExit(code)


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from subnet.version import describe_version

        emit(f"{context.info_name} {describe_version()}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Print version and commit."
    ),
]
"""``--version`` of a command line."""


def run_app(app: typer.Typer, arguments: Sequence[str], *, name: str) -> NoReturn:
    """Run a command line and turn every expected error into an exit code.

    ``name`` is the program, with the words of the group that ``app`` is. The older spellings of
    options work. No process of it writes a core dump, which would hold private keys.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wait_passively()
    _redact_plain_logs()
    verbose = "--verbose" in arguments
    # Here only: it says what it says by this module.
    from subnet.cli.progress import can_draw, show_progress

    try:
        with show_progress(with_bars=can_draw() and "--json" not in arguments):
            _run(app, [argument for argument in arguments if argument != "--verbose"], name=name)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as raised:
        error = find_expected(raised, (SubnetError, KeysError, MeshError, DevchainError))
        if error is None:
            raise
        if verbose:
            traceback.print_exc()
        message, hint = explain(error)
        fail(message, hint, code=EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE)
    raise SystemExit(0)


def _run(app: typer.Typer, arguments: Sequence[str], *, name: str) -> None:
    """Run a command with what variables and file say as its defaults."""
    line, config = take_config_option(arguments)
    root = build_tree(app)
    path, command = find_command(root, line)
    line = normalise_arguments(line, spellings=list_old_spellings(list_spellings(command)))
    # What is alone `mesh-test` is the command `node` of `mesh`.
    place = ("node",) if name == NODE_PROGRAM else (*name.split()[1:], *path)
    parsed = Line(command, place, tuple(line[len(path) :]), config)
    defaults: dict[str, Any] = bind_settings(parsed, root if name == PROGRAM else None)
    for word in reversed(path):
        defaults = {word: defaults}
    root.main(args=line, prog_name=name, default_map=defaults, obj=parsed)


class _PlainLine(logging.Formatter):
    """Formats a log line as errors are shown: without access tokens and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return make_plain(redact_urls(super().format(record)))


def _redact_plain_logs() -> None:
    """Redact warnings where logs are not configured: most commands leave them to Python."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainLine())


def find_expected(raised: BaseException, expected: tuple[type[Exception], ...]) -> Exception | None:
    """Return the error that a person can act on, out of the groups that tasks raise.

    None if there is none, or if something unexpected was raised beside it.
    """
    if isinstance(raised, BaseExceptionGroup):
        found = [find_expected(inner, expected) for inner in raised.exceptions]
        return None if None in found else found[0]
    return raised if isinstance(raised, expected) else None
