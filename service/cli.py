"""The `byline` command."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import socket
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, get_args, get_origin

import structlog
from rich.progress import MofNCompleteColumn, Progress

import migrations
from service import doctor, http, logs
from service.access import check, example_flags
from service.config import Address, Settings, SettingsError, load, parse_address
from service.doctor import Finding
from service.files import FileError
from service.loop import factory, run
from service.maintenance import finish, jobs
from service.passwords import hash_with_salt
from service.server import pool_config, serve
from service.start import INTERRUPTED
from service.supervisor import supervise
from storage import embedded, seeding
from storage.database import Database
from storage.dialects.urls import file_of, is_file, without_password
from storage.errors import AlreadyExists, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BENCH = "bench"
USAGE_ERROR = 2
# What the embedded server keeps for superusers and people with psql.
SPARE_CONNECTIONS = 20
DEFAULT_MAX_CONNECTIONS = 100

BANNER = """\
Byline {version} listens on {address}
  database   {database}
  data       {data}
  schema     {schema}
  pool       {pool}
  open to    {callers}
Try:
  grpcurl {grpcurl} -d '{request}' {address} byline.v1.UserService/CreateUser
  buf curl --protocol grpc {buf} -d '{request}' \
{scheme}://{address}/byline.v1.UserService/CreateUser
Ctrl-C stops it."""
# The largest number of a database's.
MOST = 2**63 - 1
# What a setting's value is called where its type does not tell.
NAMES = {
    "data_dir": "DIR",
    "database_url": "URL",
    "request_key": "KEY",
    "jwt_keys": "FILE|URL",
    "jwt_issuer": "ISSUER",
    "jwt_audience": "AUDIENCE",
    "otlp_endpoint": "URL",
    "trace_ratio": "RATIO",
}
SEEDED_PASSWORD = "correct horse"  # noqa: S105 - printed for everybody to use
EXAMPLE = '{"email":"ada@example.com","username":"ada","password":"correct horse"}'

log = structlog.get_logger("byline")


class CommandFailed(Exception):
    """The command cannot go on, for the reason in its message."""


# What the one line says that a command ends with.
FAILURES = (
    CommandFailed,
    FileError,
    SettingsError,
    http.CannotListen,
    embedded.EmbeddedError,
    migrations.MigrationError,
)


class Where(NamedTuple):
    """A database, for SQLAlchemy and for people."""

    url: str
    shown: str
    data: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 1 when it failed, 2 when it was misspelt."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(given: Sequence[str]) -> int:
    if given[:1] == [BENCH]:
        return _bench(given[1:])
    options = vars(_parser().parse_args(given))
    command: Callable[..., None] = options.pop("command")
    flags = {name: options.pop(name) for name in Settings.model_fields if name in options}
    try:
        settings = load(**flags)
    except SettingsError as error:
        print(f"byline: {error}", file=sys.stderr)
        return USAGE_ERROR
    logs.configure(settings)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command(settings, **options)
    except FAILURES as error:
        print(f"byline: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    address = parse_address(settings.listen)
    callers = check(settings, address)
    reserved, address = _reserve(address)
    with reserved, _database(settings, share=False) as where:
        schema = _ensure_schema(settings, where)

        def started(port: int) -> None:
            _announce(settings, address._replace(port=port), where, schema, callers)

        if settings.workers == 1:
            reserved.close()
            run(serve(settings, where.url, address, settings.metrics_address, started))
        else:
            run(supervise(settings, where.url, address, lambda: started(address.port)))


def _migrate(settings: Settings, action: str, revision: str | None = None) -> None:
    """Shows or changes the schema's revision."""
    if action == "sql":
        print(migrations.sql(settings.database_url or embedded.ANY_URL, revision or "head"), end="")
        return
    with _database(settings, share=True) as where:
        status = migrations.status(where.url)
        match action, status.state:
            case ("status", _) | ("up", migrations.State.NEXT):
                pass
            case (_, migrations.State.NEXT | migrations.State.AHEAD):
                raise CommandFailed(_described(status))
            case ("up", _):
                migrations.up(where.url, revision or "head")
            case _:
                migrations.down(where.url, revision or "-1")
        status = migrations.status(where.url)
    print(f"{where.shown}\nschema {status.current or 'empty'}: {_described(status)}")
    for name, title in status.pending:
        print(f"  pending {name}  {title}")


def _seed(settings: Settings, **amounts: int) -> None:
    """Fills the database with believable data, the same for the same --seed."""
    plan = seeding.Plan(**amounts)
    password_hash = hash_with_salt(SEEDED_PASSWORD, f"byline seed {plan.seed:08}")
    with (
        _database(settings, share=True) as where,
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as bar,
    ):
        _ensure_schema(settings, where)
        tasks = {
            name: bar.add_task(name, total=amounts[name]) for name in ("users", "tags", "posts")
        }

        async def fill() -> None:
            db = Database(where.url, pool_config(settings))
            try:
                await seeding.seed(
                    db, plan, password_hash, lambda name, made: bar.advance(tasks[name], made)
                )
            except AlreadyExists:
                raise CommandFailed(
                    f"the database has the data of seed {plan.seed} already; take another --seed"
                ) from None
            finally:
                await db.close()

        run(fill())
    print(f"Every user's password is: {SEEDED_PASSWORD}")


def _maintain(settings: Settings) -> None:
    """Does what servers do in the background now and then, to the end, and says how much it was."""

    async def maintain() -> None:
        db = Database(where.url, pool_config(settings))
        try:
            for job in jobs(settings):
                print(f"{job.name}: {await finish(db, job)}")
        except StorageError as error:
            raise CommandFailed(f"the database failed: {error}") from error
        finally:
            await db.close()

    with _database(settings, share=True) as where:
        _ensure_schema(settings, where)
        run(maintain())


def _examine(settings: Settings) -> None:
    """Says what keeps a server with these settings from serving well, and what to do about it."""
    findings = [_port("port", settings.listen, "--listen")]
    if settings.metrics_listen is not None:
        findings.append(_port("metrics", settings.metrics_listen, "--metrics-listen"))
    findings += doctor.examine_callers(settings)

    async def examine() -> list[Finding]:
        db = Database(where.url, pool_config(settings))
        try:
            return await doctor.examine(db, settings)
        finally:
            await db.close()

    with _database(settings, share=True) as where:
        with asyncio.Runner(loop_factory=factory) as runner:
            findings += runner.run(examine())
        # What does not answer has no schema to be looked at.
        if findings[-1].name != "database":
            status = migrations.status(where.url)
            findings.append(_schema(settings, status))
    print(*findings, sep="\n")
    if failed := sum(not each.is_well for each in findings):
        raise CommandFailed(f"{failed} of {len(findings)} checks failed")


def _schema(settings: Settings, status: migrations.Status) -> Finding:
    """Finds whether a server would serve the schema, or bring it to where it can."""
    if _is_to_migrate(settings, status):
        told = f"{status.current or 'empty'}: serving brings it up to date"
        return Finding("schema", is_well=True, told=told)
    served = status.state in {migrations.State.CURRENT, migrations.State.NEXT}
    return Finding("schema", served, _described(status))


def _bench(arguments: Sequence[str]) -> int:
    """Measures Byline beside what it is compared to; comes with the source alone."""
    try:
        # By its name: nothing that is installed stands on what is not.
        command = importlib.import_module("bench.command")
    except ModuleNotFoundError as missing:
        if missing.name not in {"bench", "bench.command"}:
            raise
        print("byline: bench is not installed: it comes with Byline's source", file=sys.stderr)
        return 1
    status: int = command.main(arguments)
    return status


def _port(name: str, listen: str, flag: str) -> Finding:
    try:
        reserved, address = _reserve(parse_address(listen))
    except CommandFailed as failure:
        told = f"{failure}; stop who listens, or set {flag}"
        return Finding(name, is_well=False, told=told)
    reserved.close()
    return Finding(name, is_well=True, told=f"{address} is free")


@contextmanager
def _database(settings: Settings, *, share: bool) -> Iterator[Where]:
    """Yields the database of the settings, running the embedded one while the block lasts."""
    if settings.database_url is not None:
        url = settings.database_url
        data = str(Path(file_of(url)).resolve()) if is_file(url) else "on your own server"
        yield Where(url, without_password(url), data)
        return
    needed = settings.workers * settings.pool_limit + SPARE_CONNECTIONS
    told = {"max_connections": str(max(DEFAULT_MAX_CONNECTIONS, needed))}
    with embedded.running(settings.data_dir, settings=told, share=share) as endpoint:
        try:
            yield Where(
                endpoint.url,
                f"embedded PostgreSQL, psql '{endpoint.psql}'",
                str(settings.data_dir.resolve()),
            )
        finally:
            # The server writes down what it has: a second Ctrl-C must not leave it running.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)


def _ensure_schema(settings: Settings, where: Where) -> str:
    """Says which revision the schema is at, once this code can serve it.

    Raises:
        CommandFailed: when it cannot, and may not bring the schema to where it can.
    """
    status = migrations.status(where.url)
    if _is_to_migrate(settings, status):
        migrations.up(where.url)
        status = migrations.status(where.url)
    match status.state:
        case migrations.State.CURRENT:
            return status.head
        case migrations.State.NEXT:
            return f"{status.current}, one step ahead of {status.head}"
        case _:
            raise CommandFailed(_described(status))


def _is_to_migrate(settings: Settings, status: migrations.Status) -> bool:
    """Tells whether serving brings the schema up to date."""
    # Nobody but Byline looks after these two.
    is_its_own = settings.database_url is None or is_file(settings.database_url)
    return (settings.migrate or is_its_own) and status.state is migrations.State.BEHIND


def _described(status: migrations.Status) -> str:
    """Says how the schema stands, and which command mends it."""
    match status.state:
        case migrations.State.CURRENT:
            return "up to date"
        case migrations.State.BEHIND:
            return (
                f"the schema is behind ({status.current or 'empty'}, this Byline expects "
                f"{status.head}); run `byline migrate up`, or serve with --migrate"
            )
        case migrations.State.HALFWAY:
            return (
                f"a step down from {status.current} is under way or was cut short; run "
                "`byline migrate down` to complete it"
            )
        case migrations.State.NEXT:
            return (
                f"the schema is one step ahead ({status.current}, this Byline expects "
                f"{status.head}), and served as it is; the Byline that made it takes it back with "
                f"`byline migrate down {status.head}`"
            )
        case migrations.State.AHEAD:
            return (
                f"the schema is ahead ({status.current}, this Byline expects {status.head}); "
                "run the Byline that made it, or with that one "
                f"`byline migrate down {status.head}`"
            )


def _reserve(address: Address) -> tuple[socket.socket, Address]:
    """Claims the port, so that nobody else's server shares it, and returns the address with it.

    Raises:
        CommandFailed: when the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        # A port that an ended connection still holds may be listened on; a server's may not.
        with _bound(family, address, socket.SO_REUSEADDR) as first:
            address = address._replace(port=first.getsockname()[1])
        try:
            return _bound(family, address, socket.SO_REUSEPORT), address
        except OSError:
            # Those that a server of one worker ended, which shares its port with nobody.
            return _bound(family, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR), address
    except OSError as error:
        raise CommandFailed(f"cannot listen on {address}: {error.strerror}") from None


def _bound(family: socket.AddressFamily, address: Address, *options: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _announce(
    settings: Settings, address: Address, where: Where, schema: str, callers: str
) -> None:
    """Prints what a newcomer wants to know, and logs what an operator does."""
    total = settings.workers * settings.pool_limit
    print(
        BANNER.format(
            version=version("byline"),
            address=address,
            database=where.shown,
            data=where.data,
            schema=schema,
            pool=f"up to {total} connections: {settings.workers} worker(s) of "
            f"{settings.pool_limit} each",
            callers=callers,
            request=EXAMPLE,
            **example_flags(settings)._asdict(),
        ),
        flush=True,
    )
    log.info(
        "serving",
        listen=str(address),
        workers=settings.workers,
        pool_per_worker=settings.pool_limit,
        pool_total=total,
        schema=schema,
        open_to=callers,
    )


def _interrupt(number: int, frame: object) -> NoReturn:
    """Ends the command on SIGTERM as on Ctrl-C: what was started is stopped on the way out."""
    del number, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="byline", description=__doc__)
    parser.add_argument("--version", action="version", version=f"byline {version('byline')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serving = _command(commands, "serve", _serve)
    _add_settings(serving, Settings.model_fields)

    migrating = _command(commands, "migrate", _migrate)
    migrating.add_argument(
        "action",
        choices=("up", "down", "status", "sql"),
        help="up: to the revision this Byline expects; down: one back; status: where the schema "
        "stands; sql: what up would run on an empty database",
    )
    migrating.add_argument("revision", nargs="?", help="another revision; sql takes FROM:TO too")
    _add_settings(migrating, ("database_url", "data_dir", "log_level", "log_format"))

    seeding_ = _command(commands, "seed", _seed)
    for name, default, text in (
        ("users", 1_000, "users to add"),
        ("posts", 5_000, "posts to add, most of them by few of these users"),
        ("tags", 200, "tags to add, few of them on most of these posts"),
        ("seed", 1, "which of all such data: the same seed makes the same"),
    ):
        seeding_.add_argument(
            f"--{name}", type=_natural, default=default, metavar="N", help=f"{text} [{default}]"
        )
    _add_settings(seeding_, ("database_url", "data_dir", "migrate", "log_level", "log_format"))

    maintaining = _command(commands, "maintenance", _maintain)
    _add_settings(
        maintaining,
        ("database_url", "data_dir", "migrate", "request_retention", "log_level", "log_format"),
    )
    examining = _command(commands, "doctor", _examine)
    _add_settings(examining, Settings.model_fields)
    # For the list of commands: it reads its flags itself.
    commands.add_parser(BENCH, help=_bench.__doc__)
    return parser


def _natural(text: str) -> int:
    """Reads a number that is not negative, and that a database can hold."""
    if not text.isascii() or not text.isdigit() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST}")
    return int(text)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[..., None],
) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=function.__doc__,
        description=function.__doc__,
        epilog="A flag counts more than the environment, the environment more than a .env file.",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=function)
    return made


def _add_settings(
    parser: argparse.ArgumentParser, names: Sequence[str] | Mapping[str, object]
) -> None:
    """Adds a flag for each setting. Its value stays text: the settings check it themselves."""
    for name in names:
        field = Settings.model_fields[name]
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "none" if default is None else str(default)
        text = f"{field.description} [BYLINE_{name.upper()}; default: {shown}]"
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag, metavar=_metavar(name, field.annotation), help=text)


def _metavar(name: str, annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return "{" + ",".join(get_args(annotation)) + "}"
    if name.endswith("listen"):
        return "HOST:PORT"
    if name in NAMES:
        return NAMES[name]
    return {int: "N", float: "SECONDS"}.get(annotation, "FILE")  # type: ignore[call-overload, no-any-return] # any annotation may be looked up
