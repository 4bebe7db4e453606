"""What can be wrong with a field of each kind, or odd about it and legal all the same.

A kind is a tuple of variants of one field; `cases` puts each of them into an otherwise good
request. Fields are written as bytes on the wire: no generated class lets a caller be wrong enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Code = grpc.StatusCode

VARINT, LENGTH, FIXED32 = 0, 2, 5
MEGABYTE = "x" * 2**20
OWL = "\N{OWL}"
NOT_UTF8 = b"12345\xff\xfe"
SURROGATE = b"12345\xed\xa0\x80"
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MIN_INT32, MAX_INT32 = -(2**31), 2**31 - 1
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
# How many violations one answer names at most: answers travel in trailers, which are short.
MOST_VIOLATIONS = 16


class Outcome(NamedTuple):
    """What a call comes to. `{}` in a field stands for the path of the field that is varied."""

    code: Code
    reason: str = ""
    fields: tuple[str, ...] = ()
    details: frozenset[str] = frozenset({"ErrorInfo"})


def refused(*fields: str) -> Outcome:
    details = frozenset({"ErrorInfo", "BadRequest"})
    return Outcome(Code.INVALID_ARGUMENT, "INVALID_REQUEST", fields, details)


SERVED = Outcome(Code.OK, details=frozenset())
REFUSED = refused("{}")
UNREADABLE = refused("")
UNKNOWN_LOGIN = Outcome(Code.UNAUTHENTICATED, "INVALID_CREDENTIALS")
NOT_FOUND = Outcome(Code.NOT_FOUND, "NOT_FOUND", details=frozenset({"ErrorInfo", "ResourceInfo"}))
STALE = Outcome(
    Code.ABORTED, "ETAG_MISMATCH", details=frozenset({"ErrorInfo", "ResourceInfo", "RetryInfo"})
)


class Raw(NamedTuple):
    """A field's value as it is on the wire, of whatever type."""

    wire_type: int
    payload: bytes


Value = int | str | bytes | Message | Raw | list[Any] | None


class Variant(NamedTuple):
    """A value that a field is sent with; None leaves the field out."""

    what: str
    value: Value
    outcome: Outcome


Kind = tuple[Variant, ...]


class Rpc(NamedTuple):
    """A good request to an RPC, and the kind of each of its fields by path.

    Args:
        good: a request that is served.
        fields: the kinds. A message field of which no part is listed is varied as a whole.
        needs: which fields an empty request is refused for; none, when it is served.
    """

    good: Message
    fields: Mapping[str, Kind]
    needs: tuple[str, ...] = ()


class Case(NamedTuple):
    """A request to one RPC, and what it comes to."""

    rpc: str
    what: str
    request: bytes
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.rpc} {self.what}"

    @property
    def method(self) -> str:
        return f"byline.v1.{self.rpc.replace('.', '/')}"


def cases(rpcs: Mapping[str, Rpc]) -> Iterator[Case]:
    """Yields every variant of every field of every RPC, and what every RPC must bear."""
    for name, rpc in rpcs.items():
        good = rpc.good.SerializeToString()
        yield Case(name, "as it should be", good, SERVED)
        yield Case(name, "empty", b"", refused(*rpc.needs) if rpc.needs else SERVED)
        yield Case(name, "cut short", good + b"\x0a\x05cut", UNREADABLE)
        yield Case(name, "noise", b"\xff" * 16, UNREADABLE)
        yield Case(name, "a field numbered 0", good + b"\x00\x01", UNREADABLE)
        yield Case(name, "groups without an end", good + b"\x0b" * 1000, UNREADABLE)
        yield Case(name, "1 MB of an unknown field", good + encode(1000, MEGABYTE), SERVED)
        for path, kind in rpc.fields.items():
            for what, value, outcome in kind:
                fields = tuple(each.format(path) for each in outcome.fields)
                request = _with(rpc.good, path, value)
                yield Case(name, f"{path} {what}", request, outcome._replace(fields=fields))


def uncovered(rpc: Rpc) -> list[str]:
    """Returns the fields of an RPC's request that have no cases."""
    return [path for path in _paths(rpc.good, "", rpc.fields) if path not in rpc.fields]


def _paths(message: Message, prefix: str, known: Mapping[str, Kind]) -> Iterator[str]:
    """Yields the paths of a message's fields, and of those of its parts that have cases."""
    for field in message.DESCRIPTOR.fields:
        path = prefix + field.name
        yield path
        if any(each.startswith(f"{path}.") for each in known):
            yield from _paths(getattr(message, field.name), f"{path}.", known)


# Kinds: what is asked about a field is what its caller can get wrong.


def text(  # noqa: PLR0913 - what there is to say about a text
    most: int,
    *,
    least: int = 0,
    missing: Outcome | None = None,
    legal: Outcome = SERVED,
    longest: str | None = None,
    owl: Outcome | None = None,
    refuse: Sequence[str] = (),
    serve: Sequence[str] = (),
) -> Kind:
    """A text of `least` to `most` characters.

    Args:
        most: the greatest length.
        least: the smallest length.
        missing: what leaving it out comes to, if not what an empty text does.
        legal: what legal texts come to.
        longest: a legal text of `most` characters.
        owl: what emojis come to, if not what legal texts do.
        refuse: more texts that are not legal.
        serve: more texts that are.
    """
    empty = REFUSED if least else legal
    longest = longest or "x" * most
    return (
        *_left_out(missing or empty),
        *_not_utf8(),
        Variant("empty", "", empty),
        *([Variant("too short", "x" * (least - 1), REFUSED)] if least > 1 else []),
        Variant("as long as may be", longest, legal),
        Variant("too long", longest + "x", REFUSED),
        Variant("of 1 MB", MEGABYTE, REFUSED),
        Variant("with a NUL", "12345\x00678", REFUSED),
        Variant("of emojis", OWL * most, owl or legal),
        *(Variant(repr(each), each, REFUSED) for each in refuse),
        *(Variant(repr(each), each, legal) for each in serve),
    )


def one_of(*legal: str) -> Kind:
    """A text out of a closed list. Any other is refused, whatever it may be."""
    near = {changed for each in legal for changed in (each.upper(), f"{each} ", f"{each},id")}
    wrong = {"\0", OWL, MEGABYTE, "1; DROP TABLE users", *near}.difference(legal)
    return (
        *_left_out(SERVED),
        *_not_utf8(),
        *(Variant(repr(each), each, SERVED) for each in legal),
        *(Variant(f"{each!r:.40}", each, REFUSED) for each in sorted(wrong)),
    )


def row_id(unknown: Outcome = NOT_FOUND, missing: Outcome = REFUSED) -> Kind:
    """The id of a row. `unknown` is what one comes to that no row has."""
    return (
        *_left_out(missing),
        Variant("0", 0, REFUSED),
        Variant("negative", -1, REFUSED),
        Variant("the least of all", MIN_INT64, REFUSED),
        Variant("the greatest of all", MAX_INT64, unknown),
        Variant("of too many bytes", Raw(VARINT, b"\xff" * 11), UNREADABLE),
        Variant("as a text", "1", missing),
    )


def row_ids(most: int) -> Kind:
    """One to `most` ids."""
    first = tuple(f"{{}}[{at}]" for at in range(MOST_VIOLATIONS))
    return (
        *_left_out(REFUSED),
        Variant("0 among others", [1, 0, 2], refused("{}[1]")),
        Variant("negative", [-1], refused("{}[0]")),
        Variant("all 0", [0] * most, refused(*first)),
        Variant("as many as may be", list(range(1, most + 1)), SERVED),
        Variant("too many", list(range(1, most + 2)), REFUSED),
        Variant("the greatest of all", [MAX_INT64], SERVED),
        Variant("a million of 0", bytes(10**6), REFUSED),
        Variant("packed and cut short", b"\x01\xff", UNREADABLE),
    )


def optional_id() -> Kind:
    """The id of a row, or 0 for any row. One that no row has is as good as another."""
    return (
        *_left_out(SERVED),
        Variant("0", 0, SERVED),
        Variant("negative", -1, REFUSED),
        Variant("the least of all", MIN_INT64, REFUSED),
        Variant("the greatest of all", MAX_INT64, SERVED),
        Variant("as a text", "1", SERVED),
    )


def tag_names(most: int, *, least: int = 1) -> Kind:
    """`least` to `most` names of tags."""
    first = tuple(f"{{}}[{at}]" for at in range(min(most, MOST_VIOLATIONS)))
    wrong = (
        *("", " ", "\u3000\u2029", "x" * 51, OWL * 51, f"{'x' * 51} ", "x" + " " * 200, MEGABYTE),
        *("a\0b", "a\nb", "\t", "a\r", "\x7f", "a\x85b", " \x1f"),
    )
    odd = ("x" * 50, OWL * 50, f" {'x' * 50}\u2003", "a  b", "e\u0301", "名前", "%", "\u202ea")
    # The two that the post has count among those it may have.
    many = ["Maths", "Notes", *(f"tag {number}" for number in range(most - 2))]
    return (
        *_left_out(REFUSED if least else SERVED),
        *_not_utf8(),
        *(Variant(f"{each!r:.30}", [each], refused("{}[0]")) for each in wrong),
        Variant("a wrong one among others", ["a", "b", "\0", "c"], refused("{}[2]")),
        Variant("all wrong", [""] * most, refused(*first)),
        *(Variant(f"{each!r:.30}", [each], SERVED) for each in odd),
        Variant("the same over and over", ["a", "A", " a", "a\u00a0"] * (most // 4), SERVED),
        Variant("as many as may be", many, SERVED),
        Variant("too many", [*many, "one more"], REFUSED),
        Variant("too many of the same", ["a"] * (most + 1), REFUSED),
        Variant("20,000 without a character", [""] * 20_000, REFUSED),
    )


def page_size() -> Kind:
    """How many rows a page has; too many are as good as the most."""
    return (
        *_left_out(SERVED),
        Variant("0", 0, SERVED),
        Variant("10^9", 10**9, SERVED),
        Variant("the greatest of all", MAX_INT32, SERVED),
        Variant("negative", -1, REFUSED),
        Variant("the least of all", MIN_INT32, REFUSED),
        Variant("as a text", "10", SERVED),
    )


def page_token(own: str, *foreign: str) -> Kind:
    """A page token: `own` belongs to the good request, and the foreign ones to other requests."""
    altered = {
        own[:at] + ("A" if own[at] != "A" else "B") + own[at + 1 :] for at in range(len(own))
    }
    marred = {own[:-1], own + "A", own + "=", own + "!!!!", f"{own[:9]}\n{own[9:]}", f" {own}"}
    # One that is no base64, one that is but says nothing, and one whose bytes are not ASCII.
    nonsense = {"nonsense!", "bm9uc2Vuc2U", "AQ", OWL, "\0", "x" * 4096}
    return (
        *_left_out(SERVED),
        *_not_utf8(),
        Variant("of this list", own, SERVED),
        *(Variant(f"of another list, {at}", each, REFUSED) for at, each in enumerate(foreign)),
        *(Variant(f"altered, {at}", each, REFUSED) for at, each in enumerate(sorted(altered))),
        *(Variant(f"marred, {each!r}", each, REFUSED) for each in sorted(marred)),
        *(Variant(f"nonsense, {each!r:.20}", each, REFUSED) for each in sorted(nonsense)),
        Variant("too long", "x" * 4097, REFUSED),
        Variant("of 1 MB", MEGABYTE, REFUSED),
    )


def etag() -> Kind:
    """An etag: whatever is not the current one is stale."""
    stale = ("0", "-1", "f" * 64, "not hexadecimal", "\0", OWL * 64, " ", "0x1", "1e400")
    return (
        *_left_out(SERVED),
        *_not_utf8(),
        *(Variant(f"{each!r:.20}", each, STALE) for each in stale),
        Variant("too long", "f" * 65, REFUSED),
        Variant("of 1 MB", MEGABYTE, REFUSED),
    )


def enum(missing: Outcome = SERVED, *, last: int) -> Kind:
    """An enum with the numbers from 0 to `last`."""
    return (
        *_left_out(missing),
        *(Variant(f"{number}", number, SERVED) for number in range(1, last + 1)),
        Variant("unknown", last + 1, REFUSED),
        Variant("negative", -1, REFUSED),
        Variant("the greatest of all", MAX_INT32, REFUSED),
        Variant("as a text", "ADMIN", missing),
    )


def flag() -> Kind:
    """A bool."""
    return (
        *_left_out(SERVED),
        Variant("true", 1, SERVED),
        Variant("more than true", MAX_INT64, SERVED),
        Variant("as a text", "true", SERVED),
    )


def moment(missing: Outcome = SERVED) -> Kind:
    """A moment of the years 1 to 9999."""
    return (
        *_left_out(missing),
        Variant("the epoch", Timestamp(), SERVED),
        Variant("the first of all", Timestamp(seconds=FIRST_SECOND), SERVED),
        Variant("the last of all", Timestamp(seconds=LAST_SECOND, nanos=999_999_999), SERVED),
        Variant("before the first", Timestamp(seconds=FIRST_SECOND - 1), REFUSED),
        Variant("after the last", Timestamp(seconds=LAST_SECOND + 1), REFUSED),
        Variant("of the least seconds", Timestamp(seconds=MIN_INT64), REFUSED),
        Variant("of the most seconds", Timestamp(seconds=MAX_INT64), REFUSED),
        Variant("of negative nanos", Timestamp(nanos=-1), REFUSED),
        Variant("of a second in nanos", Timestamp(nanos=10**9), REFUSED),
        Variant("of the most nanos", Timestamp(nanos=MAX_INT32), REFUSED),
        Variant("as a number", 1, missing),
        Variant("cut short", b"\x08", UNREADABLE),
    )


def mask(*mutable: str, immutable: Sequence[str]) -> Kind:
    """An update mask that may name the mutable fields or `*`."""
    parts = [f"{each}.part" for each in (*mutable, "*")]
    wrong = ["unknown", "", "\0", OWL, " ", ".", "update_mask", *immutable, *parts]
    wrong += [mutable[0].upper(), f"{mutable[0]},{mutable[-1]}", f"{mutable[0]}.", MEGABYTE]
    wrong += [f"{mutable[0]}.{MEGABYTE}", f"{mutable[0]}.{OWL * 4000}"]
    return (
        *_left_out(SERVED),
        *(Variant(repr(each), FieldMask(paths=[each]), SERVED) for each in (*mutable, "*")),
        *(Variant(f"{each!r:.30}", FieldMask(paths=[each]), REFUSED) for each in wrong),
        Variant("of right and wrong", FieldMask(paths=["*", mutable[0], "unknown"]), REFUSED),
        Variant("of all and a part", FieldMask(paths=["*", parts[0]]), REFUSED),
        Variant("of one path twice", FieldMask(paths=[mutable[0]] * 2), SERVED),
        Variant("of 10,000 wrong paths", FieldMask(paths=["unknown"] * 10_000), REFUSED),
        Variant("not UTF-8", encode(1, NOT_UTF8), UNREADABLE),
        Variant("cut short", b"\x0a\x7f", UNREADABLE),
    )


def request_id() -> Kind:
    """A request id."""
    wrong = ("1", "\0", OWL, "01234567-89ab-cdef-0123-456789abcdeg", MEGABYTE)
    given = "01234567-89ab-cdef-0123-456789abcdef"
    return (
        *_left_out(SERVED),
        *_not_utf8(),
        Variant("a UUID", given, SERVED),
        Variant("a UUID in capitals", given.upper(), SERVED),
        *(Variant(f"{each!r:.40}", each, REFUSED) for each in wrong),
        Variant("too long", given + "0", REFUSED),
    )


def message(missing: Outcome = SERVED, *, ignored: Mapping[str, Value] | None = None) -> Kind:
    """A message of which only the whole is varied; what is `ignored` in it changes nothing."""
    return (
        *_left_out(missing),
        *(Variant(what, value, SERVED) for what, value in (ignored or {}).items()),
        Variant("cut short", b"\x0a\x7f", UNREADABLE),
    )


def ignored_number(*values: int) -> Kind:
    """A number that changes nothing."""
    return (*_left_out(SERVED), *(Variant(f"{each}", each, SERVED) for each in values))


def _left_out(outcome: Outcome) -> Kind:
    # What has another type than the contract's is a field the contract does not know.
    return (
        Variant("left out", None, outcome),
        Variant("of another wire type", Raw(FIXED32, b"\x01\0\0\0"), outcome),
    )


def _not_utf8() -> Kind:
    return (
        Variant("not UTF-8", NOT_UTF8, UNREADABLE),
        Variant("half a surrogate pair", SURROGATE, UNREADABLE),
    )


# The wire format: https://protobuf.dev/programming-guides/encoding/


def encode(number: int, value: Value) -> bytes:
    """Returns a field as it is on the wire."""
    if isinstance(value, list):
        return b"".join(encode(number, each) for each in value)
    if value is None:
        return b""
    wire_type, payload = _raw(value)
    return _varint(number << 3 | wire_type) + payload


def _raw(value: int | str | bytes | Message | Raw) -> Raw:
    match value:
        case Raw():
            return value
        case int():
            return Raw(VARINT, _varint(value % 2**64))
        case str():
            value = value.encode()
        case Message():
            value = value.SerializeToString()
    return Raw(LENGTH, _varint(len(value)) + value)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _with(good: Message, path: str, value: Value) -> bytes:
    """Returns the good request with another value at the path, and no other key in its oneof."""
    request = type(good)()
    request.CopyFrom(good)
    holder, numbers = request, []
    *parents, name = path.split(".")
    for parent in parents:
        numbers.append(holder.DESCRIPTOR.fields_by_name[parent].number)
        holder = getattr(holder, parent)
    field = holder.DESCRIPTOR.fields_by_name[name]
    holder.ClearField(field.containing_oneof.name if field.containing_oneof else name)
    encoded = encode(field.number, value)
    for number in reversed(numbers):
        encoded = encode(number, encoded)
    # Parsers merge the parts of a message that come in pieces.
    return request.SerializeToString() + encoded
