"""The `byline` command."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

import structlog
from rich.progress import MofNCompleteColumn, Progress

import migrations
from service import doctor, logs, schema
from service.access import check, example_flags
from service.config import Settings, SettingsError, load, parse_address
from service.files import FileError
from service.flags import add_settings, natural
from service.loop import factory, run
from service.maintenance import finish, jobs
from service.passwords import hash_with_salt
from service.ports import CannotListen, reserve
from service.schema import SchemaUnfit
from service.server import pool_config, serve
from service.start import INTERRUPTED
from service.supervisor import supervise
from service.where import database
from storage import embedded, seeding
from storage.database import Database
from storage.errors import AlreadyExists, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.config import Address
    from service.doctor import Finding
    from service.where import Where

BENCH = "bench"
USAGE_ERROR = 2
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
    CannotListen,
    SchemaUnfit,
    embedded.EmbeddedError,
    migrations.MigrationError,
)


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
    reserved, address = reserve(address)
    with reserved, database(settings, share=False) as where:
        revision = schema.ensure(settings, where.url)

        def started(port: int) -> None:
            _announce(settings, address._replace(port=port), where, revision, callers)

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
    with database(settings, share=True) as where:
        status = migrations.status(where.url)
        match action, status.state:
            case ("status", _) | ("up", migrations.State.NEXT):
                pass
            case (_, migrations.State.NEXT | migrations.State.AHEAD):
                raise CommandFailed(schema.described(status))
            case ("up", _):
                migrations.up(where.url, revision or "head")
            case _:
                migrations.down(where.url, revision or "-1")
        status = migrations.status(where.url)
    print(f"{where.shown}\nschema {status.current or 'empty'}: {schema.described(status)}")
    for name, title in status.pending:
        print(f"  pending {name}  {title}")


def _seed(settings: Settings, **amounts: int) -> None:
    """Fills the database with believable data, the same for the same --seed."""
    plan = seeding.Plan(**amounts)
    password_hash = hash_with_salt(SEEDED_PASSWORD, f"byline seed {plan.seed:08}")
    with (
        database(settings, share=True) as where,
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as bar,
    ):
        schema.ensure(settings, where.url)
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

    with database(settings, share=True) as where:
        schema.ensure(settings, where.url)
        run(maintain())


def _examine(settings: Settings) -> None:
    """Says what keeps a server with these settings from serving well, and what to do about it."""
    findings = [*doctor.examine_ports(settings), *doctor.examine_callers(settings)]

    async def examine() -> list[Finding]:
        db = Database(where.url, pool_config(settings))
        try:
            return await doctor.examine(db, settings)
        finally:
            await db.close()

    with database(settings, share=True) as where:
        with asyncio.Runner(loop_factory=factory) as runner:
            findings += runner.run(examine())
        # What does not answer has no schema to be looked at.
        if findings[-1].name != "database":
            findings.append(doctor.examine_schema(settings, migrations.status(where.url)))
    print(*findings, sep="\n")
    if failed := sum(not each.is_well for each in findings):
        raise CommandFailed(f"{failed} of {len(findings)} checks failed")


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


def _announce(
    settings: Settings, address: Address, where: Where, revision: str, callers: str
) -> None:
    """Prints what a newcomer wants to know, and logs what an operator does."""
    total = settings.workers * settings.pool_limit
    print(
        BANNER.format(
            version=version("byline"),
            address=address,
            database=where.shown,
            data=where.data,
            schema=revision,
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
        schema=revision,
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
    add_settings(serving, Settings.model_fields)

    migrating = _command(commands, "migrate", _migrate)
    migrating.add_argument(
        "action",
        choices=("up", "down", "status", "sql"),
        help="up: to the revision this Byline expects; down: one back; status: where the schema "
        "stands; sql: what up would run on an empty database",
    )
    migrating.add_argument("revision", nargs="?", help="another revision; sql takes FROM:TO too")
    add_settings(migrating, ("database_url", "data_dir", "log_level", "log_format"))

    seeding_ = _command(commands, "seed", _seed)
    for name, default, text in (
        ("users", 1_000, "users to add"),
        ("posts", 5_000, "posts to add, most of them by few of these users"),
        ("tags", 200, "tags to add, few of them on most of these posts"),
        ("seed", 1, "which of all such data: the same seed makes the same"),
    ):
        seeding_.add_argument(
            f"--{name}", type=natural, default=default, metavar="N", help=f"{text} [{default}]"
        )
    add_settings(seeding_, ("database_url", "data_dir", "migrate", "log_level", "log_format"))

    maintaining = _command(commands, "maintenance", _maintain)
    add_settings(
        maintaining,
        ("database_url", "data_dir", "migrate", "request_retention", "log_level", "log_format"),
    )
    examining = _command(commands, "doctor", _examine)
    add_settings(examining, Settings.model_fields)
    # For the list of commands: it reads its flags itself.
    commands.add_parser(BENCH, help=_bench.__doc__)
    return parser


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
