"""TagService, as its callers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import posts_pb2, resources_pb2
from byline.v1 import tags_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from tests import factories
from tests.clients import Refusal, missing, outcome_of, refusal_of, stale, taken
from tests.onlookers import looking_on, until_waiting_for_a_lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.database import Database
    from tests.clients import Client

# Spellings of one name, and of two.
SAME_NAMES = [
    ("maths", "MATHS"),
    ("maths", " maths\u2003"),
    ("straße", "STRASSE"),
    ("caf\u00e9", "CAFE\u0301"),
    ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
]
DIFFERENT_NAMES = [
    ("maths", "math s"),
    ("a b", "a  b"),
    ("ilya", "\u0131lya"),
    ("maths", "m\u0430ths"),
    ("ab", "a\u200db"),
]


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


# CreateTags


async def test_created_tags_come_in_the_order_asked(client: Client) -> None:
    (notes,) = await factories.create_tags(client, "Notes")
    made = await factories.create_tags(client, "maths", "NOTES", " Maths", "Engines", "notes ")
    assert [tag.name for tag in made] == ["maths", "Notes", "maths", "Engines", "Notes"]
    assert made[0] == made[2]
    assert [made[1], made[4]] == [notes, notes]
    assert len({tag.id for tag in made}) == 3
    for tag in made:
        assert await get(client, id=tag.id) == tag


async def test_a_tag_is_kept_as_first_given_but_for_the_spaces_around_it(client: Client) -> None:
    (made,) = await factories.create_tags(client, "\u2003 Analytical  Engine\u00a0")
    assert made == resources_pb2.Tag(
        id=made.id, name="Analytical  Engine", post_count=0, etag=made.etag
    )
    assert all((made.id, made.etag, made.HasField("post_count")))
    assert await factories.create_tags(client, "ANALYTICAL  ENGINE") == [made]


async def test_created_tags_tell_how_many_posts_have_them(client: Client) -> None:
    for tags in (["Maths", "Notes"], ["Maths"]):
        await factories.create_post(client, tags=tags)
    made = await factories.create_tags(client, "New", "Notes", "Maths")
    assert counts(made) == {"New": 0, "Notes": 1, "Maths": 2}


@pytest.mark.parametrize(("name", "again"), SAME_NAMES)
async def test_names_that_differ_by_case_alone_are_one(
    client: Client, name: str, again: str
) -> None:
    made, same = await factories.create_tags(client, name, again)
    assert made == same
    assert await factories.create_tags(client, again) == [made]
    assert await get(client, name=again) == made


@pytest.mark.parametrize(("name", "other"), DIFFERENT_NAMES)
async def test_names_that_differ_by_more_are_two(client: Client, name: str, other: str) -> None:
    one, two = await factories.create_tags(client, name, other)
    assert one.id != two.id
    assert (one.name, two.name) == (name, other)


@pytest.mark.parametrize("letter", ["x", "\N{OWL}", "\U0001d160", "\u0390"])
async def test_a_name_may_have_50_characters_between_its_spaces(
    client: Client, letter: str
) -> None:
    (made,) = await factories.create_tags(client, f" {letter * 50}   ")
    assert made.name == letter * 50
    assert await get(client, name=letter * 50) == made


async def test_a_thousand_tags_are_made_at_once(client: Client) -> None:
    given = [f"tag {number * 7 % 1000}" for number in range(1000)]
    made = await factories.create_tags(client, *given)
    assert [tag.name for tag in made] == given
    assert await factories.create_tags(client, *map(str.upper, given)) == made


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
@pytest.mark.parametrize("with_a_post", [False, True])
async def test_who_makes_a_tag_waits_for_the_one_who_is_making_it(
    client: Client, database_url: str, outcome: str, *, with_a_post: bool
) -> None:
    author = await factories.create_user(client)

    async def make() -> resources_pb2.Tag:
        if with_a_post:
            post = await factories.create_post(client, author_id=author.id, tags=["Maths"])
            return post.tags[0]
        return (await factories.create_tags(client, "Maths"))[0]

    async with looking_on(database_url) as onlooker:
        async with onlooker.transaction(outcome):
            other = await onlooker.value(
                "INSERT INTO tags (name, name_key) VALUES ('MATHS', 'maths') RETURNING id"
            )
            creating = asyncio.ensure_future(make())
            await until_waiting_for_a_lock(database_url)
        tag = await creating
    assert tag.name == ("MATHS" if outcome == "commit" else "Maths")
    if outcome == "commit":
        assert tag.id == other
    assert (await get(client, name="maths")).id == tag.id


async def test_all_who_make_the_same_tags_at_once_get_them(client: Client) -> None:
    given = [f"tag {number}" for number in range(30)]
    authors = [await factories.create_user(client) for _ in range(5)]
    turned = [[*given[number:], *given[:number]] for number in range(10)]
    asked = [*turned, *(names[::-1] for names in turned)]
    made, posts = await asyncio.gather(
        asyncio.gather(*(factories.create_tags(client, *names) for names in asked)),
        asyncio.gather(
            *(
                factories.create_post(client, author_id=author.id, tags=names)
                for author, names in zip(authors, asked, strict=False)
            )
        ),
    )
    ids = {tag.name: tag.id for page in await list_pages(client) for tag in page}
    assert ids.keys() == set(given)
    assert [[tag.id for tag in tags] for tags in made] == [
        [ids[name] for name in names] for names in asked
    ]
    assert all({tag.name: tag.id for tag in post.tags} == ids for post in posts)


# GetTag


async def test_a_tag_is_found_by_id_and_by_name(client: Client) -> None:
    await factories.create_post(client, tags=["Maths", "Notes"])
    tag = await get(client, name=" MATHS ")
    assert (tag.name, tag.post_count) == ("Maths", 1)
    assert await get(client, id=tag.id) == tag


@pytest.mark.parametrize("key", [{"id": 7}, {"name": "Unknown"}, {"name": "%"}, {"name": " "}])
async def test_a_tag_that_is_not_there_is_named(client: Client, key: Mapping[str, Any]) -> None:
    await factories.create_tags(client, "Maths")
    assert (await refusal_of(get(client, **key))).what == missing("tag", *key.values())


# ListTags


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("", "ada:1 Bob:2 Cyd:0 Dora:1 eve:0"),
        ("name", "ada:1 Bob:2 Cyd:0 Dora:1 eve:0"),
        ("name desc", "eve:0 Dora:1 Cyd:0 Bob:2 ada:1"),
        ("post_count", "eve:0 Cyd:0 Dora:1 ada:1 Bob:2"),
        ("post_count desc", "Bob:2 ada:1 Dora:1 Cyd:0 eve:0"),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 4, 5])
async def test_pages_show_every_tag_once_and_in_order(
    client: Client, order_by: str, expected: str, page_size: int
) -> None:
    for name in ("eve", "Dora", "Cyd", "Bob", "ada"):
        await factories.create_tags(client, name)
    await factories.create_post(client, tags=["Bob", "Dora"])
    await factories.create_post(client, tags=["Bob", "ada"])
    pages = await list_pages(client, order_by=order_by, page_size=page_size)
    shown = [f"{tag.name}:{tag.post_count}" for page in pages for tag in page]
    assert shown == expected.split()
    assert {len(page) for page in pages[:-1]} <= {page_size}
    assert pages[-1]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", "100%_\\ anna Ann Anne Straße \U0010ffff"),
        ("a", "anna Ann Anne"),
        ("ANN", "anna Ann Anne"),
        ("anne", "Anne"),
        ("annex", ""),
        ("nn", ""),
        ("stras", "Straße"),
        ("STRAß", "Straße"),
        ("%", ""),
        ("_", ""),
        ("100%", "100%_\\"),
        ("100%_\\", "100%_\\"),
        (" a", ""),
        ("\U0010ffff", "\U0010ffff"),
    ],
)
async def test_a_prefix_narrows_the_list(client: Client, prefix: str, expected: str) -> None:
    names = ["anna", "Straße", "Ann", "100%_\\", "\U0010ffff", "Anne"]
    await factories.create_tags(client, *names)
    await factories.create_post(client, tags=names)
    for order_by in ("name", "name desc", "post_count", "post_count desc"):
        pages = await list_pages(client, prefix=prefix, order_by=order_by, page_size=2)
        shown = [tag for page in pages for tag in page]
        assert {tag.name for tag in shown} == set(expected.split())
        assert {tag.post_count for tag in shown} <= {1}


@pytest.mark.parametrize(
    ("page_size", "rows"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (10**9, 1000)]
)
@pytest.mark.parametrize("order_by", ["name", "post_count"])
async def test_a_page_has_50_tags_unless_asked_and_1000_at_most(
    client: Client, db: Database, order_by: str, page_size: int, rows: int
) -> None:
    await factories.add_tags(db, *map(str, range(1001)))
    request = pb.ListTagsRequest(page_size=page_size, order_by=order_by)
    answer = await client.tags.ListTags(request)
    assert len(answer.tags) == rows
    assert answer.next_page_token


@pytest.mark.parametrize(
    "asked",
    [
        {"order_by": "name", "prefix": "m"},
        {"order_by": "name desc"},
        {"order_by": "post_count desc", "prefix": "m"},
        {"order_by": "name desc", "prefix": "ma"},
    ],
)
async def test_a_page_token_is_good_for_its_own_list_only(
    client: Client, asked: Mapping[str, Any]
) -> None:
    await factories.create_tags(client, "Maths", "Magic")
    own = pb.ListTagsRequest(order_by="name desc", prefix="m", page_size=1)
    token = (await client.tags.ListTags(own)).next_page_token
    refusal = await refusal_of(client.tags.ListTags(pb.ListTagsRequest(page_token=token, **asked)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ("page_token",)


@pytest.mark.parametrize("order_by", ["name", "post_count desc"])
async def test_a_page_goes_on_after_a_tag_that_is_gone(client: Client, order_by: str) -> None:
    await factories.create_post(client, tags=["A"])
    await factories.create_post(client, tags=["A", "B"])
    await factories.create_tags(client, "C")
    request = pb.ListTagsRequest(page_size=1, order_by=order_by)
    first = await client.tags.ListTags(request)
    await client.tags.DeleteTag(pb.DeleteTagRequest(id=first.tags[0].id))
    request = pb.ListTagsRequest(page_size=5, order_by=order_by, page_token=first.next_page_token)
    rest = await client.tags.ListTags(request)
    assert [tag.name for tag in (*first.tags, *rest.tags)] == ["A", "B", "C"]


@pytest.mark.parametrize("letter", ["\N{OWL}", "\U0001d160"])
async def test_a_page_goes_on_after_the_longest_of_names(client: Client, letter: str) -> None:
    made = await factories.create_tags(client, letter * 49, letter * 50)
    assert await list_pages(client, page_size=1) == [[made[0]], [made[1]]]


async def test_no_tags_are_an_empty_page(client: Client) -> None:
    for order_by in ("name", "post_count"):
        assert await list_pages(client, order_by=order_by) == [[]]


# UpdateTag


@pytest.mark.parametrize("mask", [["name"], ["*"], [], ["name", "*"]])
async def test_a_renamed_tag_is_the_same_tag_on_the_same_posts(
    client: Client, mask: Sequence[str]
) -> None:
    post = await factories.create_post(client, tags=["Maths", "Notes"])
    tag = await get(client, name="Maths")
    after = await rename(client, tag, " Zoology\u2003", *mask)
    assert after == resources_pb2.Tag(id=tag.id, name="Zoology", post_count=1, etag=after.etag)
    assert after.etag != tag.etag
    assert await get(client, name="zoology") == after
    assert (await refusal_of(get(client, name="Maths"))).what == missing("tag", "Maths")
    shown = (await client.posts.GetPost(posts_pb2.GetPostRequest(id=post.id))).post
    assert [each.name for each in shown.tags] == ["Notes", "Zoology"]
    assert (shown.etag, shown.updated_at) == (post.etag, post.updated_at)


@pytest.mark.parametrize(("name", "again"), [each for each in SAME_NAMES if " " not in each[1]])
async def test_a_tag_can_change_the_case_of_its_own_name(
    client: Client, name: str, again: str
) -> None:
    (made,) = await factories.create_tags(client, name)
    after = await rename(client, made, again, "name")
    assert (after.id, after.name) == (made.id, again)
    assert after.etag != made.etag
    assert await factories.create_tags(client, name) == [after]


@pytest.mark.parametrize(("name", "again"), SAME_NAMES)
async def test_a_name_that_another_tag_has_cannot_be_taken(
    client: Client, name: str, again: str
) -> None:
    other, made = await factories.create_tags(client, name, "Other")
    refusal = await refusal_of(rename(client, made, again, "name"))
    assert refusal.what == taken("tag", "name")
    assert await list_pages(client, order_by="name") == [
        sorted([other, made], key=lambda tag: tag.name.casefold())
    ]


async def test_of_ten_who_race_for_a_name_one_gets_it(client: Client) -> None:
    made = await factories.create_tags(client, *(f"tag {number}" for number in range(10)))
    outcomes = await asyncio.gather(
        *(outcome_of(rename(client, tag, "Maths", "name")) for tag in made)
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [refusal.what for refusal in refusals] == [taken("tag", "name")] * 9
    (winner,) = [outcome for outcome in outcomes if outcome not in refusals]
    assert await get(client, name="maths") == winner


@pytest.mark.parametrize("mask", [["name"], ["*"]])
async def test_a_name_cannot_be_cleared(client: Client, mask: Sequence[str]) -> None:
    (made,) = await factories.create_tags(client, "Maths")
    refusal = await refusal_of(rename(client, made, "", *mask))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ("tag.name",)
    assert await get(client, id=made.id) == made


async def test_an_update_that_changes_nothing_leaves_no_trace(client: Client) -> None:
    (made,) = await factories.create_tags(client, "Maths")
    for name, *mask in (["Maths", "name"], [" Maths ", "*"], ["Maths"], [""]):
        assert await rename(client, made, name, *mask) == made
    assert await get(client, id=made.id) == made


async def test_posts_do_not_change_the_etag_of_their_tags(client: Client) -> None:
    (made,) = await factories.create_tags(client, "Maths")
    await factories.create_post(client, tags=["MATHS"])
    after = await get(client, id=made.id)
    assert (after.name, after.post_count, after.etag) == ("Maths", 1, made.etag)


async def test_an_update_goes_through_with_the_current_etag(client: Client) -> None:
    (made,) = await factories.create_tags(client, "Maths")
    after = await rename(client, made, "Second", "name", etag=made.etag)
    again = await rename(client, made, "Third", "name", etag=after.etag)
    assert again.name == "Third"


@pytest.mark.parametrize("mask", [["name"], []])
@pytest.mark.parametrize("garbage", [None, "garbage", "0"])
async def test_a_stale_etag_stops_the_change(
    client: Client, mask: Sequence[str], garbage: str | None
) -> None:
    (made,) = await factories.create_tags(client, "Maths")
    current = await rename(client, made, "Second", "name")
    refusal = await refusal_of(rename(client, made, "Second", *mask, etag=garbage or made.etag))
    assert refusal.what == stale("tag", made.id)
    assert await get(client, id=made.id) == current


@pytest.mark.parametrize("etag", ["", "0"])
async def test_no_tag_can_be_neither_changed_nor_removed(client: Client, etag: str) -> None:
    nothing = resources_pb2.Tag(id=7)
    for call in (
        rename(client, nothing, "Maths", "name", etag=etag),
        client.tags.DeleteTag(pb.DeleteTagRequest(id=7)),
    ):
        assert (await refusal_of(call)).what == missing("tag", 7)


# DeleteTag


async def test_a_deleted_tag_is_gone_and_the_posts_stay(client: Client) -> None:
    post = await factories.create_post(client, tags=["Maths", "Notes"])
    tag = await get(client, name="Maths")
    request = pb.DeleteTagRequest(id=tag.id)
    assert await client.tags.DeleteTag(request) == pb.DeleteTagResponse()
    for call in (get(client, id=tag.id), client.tags.DeleteTag(request)):
        assert (await refusal_of(call)).what == missing("tag", tag.id)
    post.tags.remove(post.tags[0])
    shown = (await client.posts.GetPost(posts_pb2.GetPostRequest(id=post.id))).post
    assert shown == post
    assert counts(*await list_pages(client)) == {"Notes": 1}


async def test_the_name_of_a_deleted_tag_is_free_but_its_id_is_not(client: Client) -> None:
    (made,) = await factories.create_tags(client, "maths")
    await client.tags.DeleteTag(pb.DeleteTagRequest(id=made.id))
    (again,) = await factories.create_tags(client, "Maths")
    assert again.id > made.id
    assert again.name == "Maths"


async def test_a_tag_that_is_just_going_is_made_again_for_who_names_it(
    client: Client, database_url: str
) -> None:
    (made,) = await factories.create_tags(client, "maths")
    async with looking_on(database_url) as onlooker:
        async with onlooker.transaction("commit"):
            await onlooker.execute("DELETE FROM tags")
            creating = asyncio.ensure_future(factories.create_post(client, tags=["Maths"]))
            await until_waiting_for_a_lock(database_url)
        post = await creating
    (tag,) = post.tags
    assert (tag.name, tag.id > made.id) == ("Maths", True)
    assert (await get(client, id=tag.id)).post_count == 1


async def get(client: Client, **key: Any) -> resources_pb2.Tag:  # noqa: ANN401 - either key
    return (await client.tags.GetTag(pb.GetTagRequest(**key))).tag


async def rename(
    client: Client, tag: resources_pb2.Tag, name: str, *mask: str, etag: str = ""
) -> resources_pb2.Tag:
    changed = resources_pb2.Tag(id=tag.id, name=name, etag=etag)
    request = pb.UpdateTagRequest(tag=changed, update_mask=FieldMask(paths=mask))
    return (await client.tags.UpdateTag(request)).tag


async def list_pages(client: Client, **asked: Any) -> list[list[resources_pb2.Tag]]:  # noqa: ANN401 - any field of ListTagsRequest
    """Follows a list to its end."""
    request = pb.ListTagsRequest(**asked)
    pages = []
    while True:
        answer = await client.tags.ListTags(request)
        pages.append(list(answer.tags))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


def counts(tags: Sequence[resources_pb2.Tag]) -> dict[str, int]:
    """How many posts have each tag, which every answer of the service says."""
    assert all(tag.HasField("post_count") for tag in tags)
    return {tag.name: tag.post_count for tag in tags}
