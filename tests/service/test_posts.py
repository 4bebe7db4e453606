"""PostService, as its callers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import posts_pb2 as pb
from byline.v1 import resources_pb2, tags_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests import factories
from tests.clients import Refusal, missing, outcome_of, refusal_of, stale, summary_of
from tests.onlookers import looking_on, until_waiting_for_a_lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.database import Database
    from tests.clients import Client

OWL = "\N{OWL}"
# A note that is three code points once it is normalised.
LONG_WHEN_FOLDED = "\U0001d160"


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


# CreatePost


async def test_a_post_is_kept_as_given(client: Client) -> None:
    author = await factories.create_user(client, profile=users_pb2.NewProfile(bio="Writes."))
    made = await factories.create_post(
        client,
        author_id=author.id,
        title=" On the Analytical Engine ",
        content="It weaves\nalgebraical patterns.",
        published=True,
        tags=["Notes", "Maths"],
    )
    author.ClearField("profile")
    maths, notes = made.tags
    assert made == resources_pb2.Post(
        id=made.id,
        author_id=author.id,
        title=" On the Analytical Engine ",
        content="It weaves\nalgebraical patterns.",
        published=True,
        created_at=made.created_at,
        updated_at=made.created_at,
        published_at=made.created_at,
        etag=made.etag,
        author=author,
        tags=[
            resources_pb2.Tag(id=maths.id, name="Maths", etag=maths.etag),
            resources_pb2.Tag(id=notes.id, name="Notes", etag=notes.etag),
        ],
    )
    assert all((made.id, made.etag, maths.id, maths.etag, notes.id, notes.etag))
    assert await get(client, made.id) == made


async def test_what_is_not_given_is_not_there(client: Client) -> None:
    author = await factories.create_user(client)
    request = pb.CreatePostRequest(author_id=author.id, title="Untold")
    made = (await client.posts.CreatePost(request)).post
    assert (made.content, made.published, list(made.tags)) == ("", False, [])
    assert not made.HasField("published_at")
    assert await get(client, made.id) == made


@pytest.mark.parametrize("title", ["名前", "e\u0301", "\u0130", "\u202ea", OWL * 200, "a\u2028b"])
async def test_a_title_is_kept_to_the_code_point(client: Client, title: str) -> None:
    made = await factories.create_post(client, title=title, content=title)
    assert (made.title, made.content) == (title, title)
    assert await get(client, made.id) == made


async def test_a_content_may_have_100_000_characters(client: Client) -> None:
    made = await factories.create_post(client, content=OWL * 100_000)
    assert (await get(client, made.id)).content == OWL * 100_000


async def test_the_time_is_the_databases(client: Client, database_url: str) -> None:
    author = await factories.create_user(client)
    async with looking_on(database_url) as onlooker:
        before = await onlooker.now()
        made = await factories.create_post(client, author_id=author.id)
        after = await onlooker.now()
    assert before <= made.created_at.ToMicroseconds() <= after


async def test_an_author_who_is_not_there_is_named_and_leaves_no_tags(client: Client) -> None:
    refusal = await refusal_of(factories.create_post(client, author_id=99, tags=["Maths"]))
    assert refusal.what == missing("user", 99)
    assert await count(client) == 0
    assert list((await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags) == []


async def test_an_author_who_is_just_leaving_has_left(client: Client, database_url: str) -> None:
    author = await factories.create_user(client)
    async with looking_on(database_url) as onlooker:
        async with onlooker.transaction("commit"):
            await onlooker.execute("DELETE FROM users WHERE id = :id", id=author.id)
            creating = asyncio.ensure_future(
                refusal_of(factories.create_post(client, author_id=author.id, tags=["Maths"]))
            )
            await until_waiting_for_a_lock(database_url)
        assert (await creating).what == missing("user", author.id)


async def test_tags_are_trimmed_and_one_that_is_named_twice_counts_once(client: Client) -> None:
    given = [" Notes", "maths", "MATHS\u2003", "notes ", "cafe\u0301", "CAF\u00c9", "a  b"]
    made = await factories.create_post(client, tags=given)
    assert names(made) == ["a  b", "cafe\u0301", "maths", "Notes"]
    assert await get(client, made.id) == made


async def test_a_tag_that_exists_is_taken_as_it_is(client: Client) -> None:
    (maths,) = await factories.create_tags(client, "Maths")
    made = await factories.create_post(client, tags=["MATHS ", "Notes"])
    assert [tag.id for tag in made.tags][:1] == [maths.id]
    assert names(made) == ["Maths", "Notes"]
    again = await factories.create_post(client, tags=["notes"])
    assert list(again.tags) == [made.tags[1]]


async def test_a_post_may_be_made_with_50_tags(client: Client) -> None:
    given = [f"{OWL * 47} {number:02}" for number in range(50)]
    made = await factories.create_post(client, tags=reversed(given))
    assert names(made) == given
    assert await get(client, made.id) == made


# GetPost, BatchGetPosts


@pytest.mark.parametrize(
    ("view", "one_is_full", "several_are_full"),
    [
        (pb.POST_VIEW_UNSPECIFIED, True, False),
        (pb.POST_VIEW_SUMMARY, False, False),
        (pb.POST_VIEW_FULL, True, True),
    ],
)
async def test_a_view_says_how_much_is_loaded(
    client: Client, view: pb.PostView.ValueType, *, one_is_full: bool, several_are_full: bool
) -> None:
    made = await factories.create_post(client, tags=["Maths", "Notes"], published=True)
    other = await factories.create_post(client, author_id=made.author_id)
    assert made.author.id == made.author_id
    several = [made, other] if several_are_full else [summary_of(made), summary_of(other)]
    assert await get(client, made.id, view) == (made if one_is_full else summary_of(made))
    ids = [made.id, other.id]
    batch = await client.posts.BatchGetPosts(pb.BatchGetPostsRequest(ids=ids, view=view))
    page = await client.posts.ListPosts(pb.ListPostsRequest(view=view))
    assert list(batch.posts) == list(page.posts) == several


async def test_a_post_that_is_not_there_is_named(client: Client) -> None:
    for view in (pb.POST_VIEW_SUMMARY, pb.POST_VIEW_FULL):
        assert (await refusal_of(get(client, 7, view))).what == missing("post", 7)


@pytest.mark.parametrize("view", [pb.POST_VIEW_SUMMARY, pb.POST_VIEW_FULL])
async def test_a_batch_comes_in_the_order_asked(
    client: Client, view: pb.PostView.ValueType
) -> None:
    made = [await factories.create_post(client, tags=["Maths"]) for _ in range(3)]
    one, two, three = [await get(client, post.id, view) for post in made]
    ids = [three.id, 99, one.id, three.id, 98, two.id, 99]
    answer = await client.posts.BatchGetPosts(pb.BatchGetPostsRequest(ids=ids, view=view))
    assert list(answer.posts) == [three, one, three, two]
    assert list(answer.missing_ids) == [99, 98]


# ListPosts, CountPosts


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("", "Dora ada Bob ada Cyd"),
        ("id", "Dora ada Bob ada Cyd"),
        ("id desc", "Cyd ada Bob ada Dora"),
        ("created_at", "Dora ada Bob ada Cyd"),
        ("created_at desc", "Cyd ada Bob ada Dora"),
        ("title", "ada ada Bob Cyd Dora"),
        ("title desc", "Dora Cyd Bob ada ada"),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 5])
@pytest.mark.parametrize("view", [pb.POST_VIEW_SUMMARY, pb.POST_VIEW_FULL])
async def test_pages_show_every_post_once_and_in_order(
    client: Client, order_by: str, expected: str, page_size: int, view: pb.PostView.ValueType
) -> None:
    author = await factories.create_user(client)
    for title in ("Dora", "ada", "Bob", "ada", "Cyd"):
        await factories.create_post(client, author_id=author.id, title=title, tags=[title])
    pages = await list_pages(client, order_by=order_by, page_size=page_size, view=view)
    posts = [post for page in pages for post in page]
    assert [post.title for post in posts] == expected.split()
    assert len({post.id for post in posts}) == 5
    assert {len(page) for page in pages[:-1]} <= {page_size}
    assert pages[-1]


@pytest.mark.parametrize(
    ("page_size", "rows"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (10**9, 1000)]
)
async def test_a_page_has_50_posts_unless_asked_and_1000_at_most(
    client: Client, db: Database, page_size: int, rows: int
) -> None:
    author = await factories.create_user(client)
    await factories.add_many_posts(db, author.id, 1001)
    answer = await client.posts.ListPosts(pb.ListPostsRequest(page_size=page_size))
    assert len(answer.posts) == rows
    assert answer.next_page_token


@pytest.mark.parametrize("letter", ["x", "名", OWL, LONG_WHEN_FOLDED])
@pytest.mark.parametrize("order_by", ["title", "title desc"])
async def test_a_page_goes_on_after_the_longest_of_titles(
    client: Client, order_by: str, letter: str
) -> None:
    author = await factories.create_user(client)
    made = [
        await factories.create_post(client, author_id=author.id, title=letter * 200)
        for _ in range(3)
    ]
    pages = await list_pages(client, order_by=order_by, page_size=1)
    assert {post.id for (post,) in pages} == {post.id for post in made}


async def test_the_size_and_the_view_may_change_from_page_to_page(client: Client) -> None:
    posts = [await factories.create_post(client) for _ in range(3)]
    first = await client.posts.ListPosts(pb.ListPostsRequest(page_size=1))
    rest = await client.posts.ListPosts(
        pb.ListPostsRequest(page_size=5, view=pb.POST_VIEW_FULL, page_token=first.next_page_token)
    )
    assert [*first.posts, *rest.posts] == [summary_of(posts[0]), *posts[1:]]


@pytest.mark.parametrize(
    "asked",
    [
        {"order_by": "title desc", "filter": pb.PostFilter(tag="maths")},
        {"order_by": "created_at", "filter": pb.PostFilter(tag="maths")},
        {"filter": pb.PostFilter(tag="maths")},
        {"order_by": "title", "filter": pb.PostFilter(tag="notes")},
        {"order_by": "title", "filter": pb.PostFilter(tag="maths", published=False)},
        {"order_by": "title"},
    ],
)
async def test_a_page_token_is_good_for_its_own_list_only(
    client: Client, asked: Mapping[str, Any]
) -> None:
    for _ in range(2):
        await factories.create_post(client, tags=["Maths"])
    own = pb.ListPostsRequest(order_by="title", filter=pb.PostFilter(tag="maths"), page_size=1)
    token = (await client.posts.ListPosts(own)).next_page_token
    refusal = await refusal_of(
        client.posts.ListPosts(pb.ListPostsRequest(page_token=token, **asked))
    )
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ("page_token",)


async def test_a_page_goes_on_after_a_post_that_is_gone(client: Client) -> None:
    posts = [await factories.create_post(client) for _ in range(3)]
    first = await client.posts.ListPosts(pb.ListPostsRequest(page_size=1))
    await client.posts.DeletePost(pb.DeletePostRequest(id=posts[0].id))
    rest = await client.posts.ListPosts(
        pb.ListPostsRequest(page_size=1000, page_token=first.next_page_token)
    )
    assert list(rest.posts) == [summary_of(post) for post in posts[1:]]


async def test_no_posts_are_an_empty_page(client: Client) -> None:
    assert await list_pages(client) == [[]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "Engines 100%_\\ Straße Draft"),
        ({"author_id": 1}, "Engines Straße"),
        ({"author_id": 2}, "100%_\\ Draft"),
        ({"author_id": 99}, ""),
        ({"published": True}, "Engines 100%_\\ Straße"),
        ({"published": False}, "Draft"),
        ({"author_id": 1, "published": False}, ""),
        ({"tag": "maths"}, "Engines Draft"),
        ({"tag": " MATHS\u2003"}, "Engines Draft"),
        ({"tag": "math"}, ""),
        ({"tag": "straße"}, "Straße"),
        ({"tag": " "}, ""),
        ({"tag": "maths", "published": True}, "Engines"),
        ({"tag": "maths", "author_id": 2, "query": "RAF"}, "Draft"),
        ({"query": "GIN"}, "Engines"),
        ({"query": "e"}, "Engines Straße"),
        ({"query": "%"}, "100%_\\"),
        ({"query": "_"}, "100%_\\"),
        ({"query": "\\"}, "100%_\\"),
        ({"query": "0%_\\"}, "100%_\\"),
        ({"query": "g%s"}, ""),
        ({"query": "RASS"}, "Straße"),
        ({"query": "Once upon a time"}, ""),
    ],
)
async def test_a_filter_narrows_the_list_and_the_count(
    client: Client, where: Mapping[str, Any], expected: str
) -> None:
    for _ in range(2):
        await factories.create_user(client)
    for author_id, title, published, tags in (
        (1, "Engines", True, ["Maths", "Notes"]),
        (2, "100%_\\", True, []),
        (1, "Straße", True, ["STRASSE"]),
        (2, "Draft", False, ["maths"]),
    ):
        await factories.create_post(
            client, author_id=author_id, title=title, published=published, tags=tags
        )
    for view in (pb.POST_VIEW_SUMMARY, pb.POST_VIEW_FULL):
        pages = await list_pages(client, filter=pb.PostFilter(**where), page_size=2, view=view)
        assert [post.title for page in pages for post in page] == expected.split()
    assert await count(client, **where) == len(expected.split())


@pytest.mark.parametrize(
    ("field", "shift", "expected"),
    [
        ("created_after", 0, "three"),
        ("created_after", 1, "three"),
        ("created_after", -1, "two three"),
        ("created_before", 0, "one"),
        ("created_before", -1, "one"),
        ("created_before", 1, "one two"),
    ],
)
async def test_a_moment_counts_to_the_nanosecond_and_is_itself_left_out(
    client: Client, field: str, shift: int, expected: str
) -> None:
    posts = {
        title: await factories.create_post(client, title=title) for title in ("one", "two", "three")
    }
    moment = Timestamp()
    moment.FromNanoseconds(posts["two"].created_at.ToNanoseconds() + shift)
    where: dict[str, Any] = {field: moment}
    pages = await list_pages(client, filter=pb.PostFilter(**where))
    assert [post.title for post in pages[0]] == expected.split()
    assert await count(client, **where) == len(expected.split())


# UpdatePost


@pytest.mark.parametrize(
    ("mask", "changed"),
    [
        (["title"], {"title"}),
        (["content"], {"content"}),
        (["published"], {"published"}),
        (["tags"], {"tags"}),
        (["title", "tags"], {"title", "tags"}),
        (["*"], {"title", "content", "published", "tags"}),
        (["*", "title"], {"title", "content", "published", "tags"}),
        ([], {"title", "content", "published", "tags"}),
    ],
)
async def test_an_update_changes_what_its_mask_names(
    client: Client, mask: Sequence[str], changed: set[str]
) -> None:
    made = await factories.create_post(client, tags=["Maths", "Notes"])
    sent: dict[str, Any] = {
        "title": "New",
        "content": "New as well.",
        "published": True,
        "tags": tags("Letters", "MATHS"),
    }
    after = await update(client, made, *mask, **sent, author_id=99)
    for field in ("title", "content", "published"):
        assert getattr(after, field) == (sent[field] if field in changed else getattr(made, field))
    assert names(after) == (["Letters", "Maths"] if "tags" in changed else ["Maths", "Notes"])
    kept = (made.id, made.author_id, made.author, made.created_at)
    assert (after.id, after.author_id, after.author, after.created_at) == kept
    assert after.updated_at.ToNanoseconds() > made.updated_at.ToNanoseconds()
    assert after.etag != made.etag
    assert await get(client, made.id) == after


async def test_what_is_empty_or_false_is_changed_by_naming_it_alone(client: Client) -> None:
    made = await factories.create_post(client, published=True, tags=["Maths"])
    assert await update(client, made, published=False, content="", tags=[]) == made
    assert (await update(client, made, "content")).content == ""
    assert not (await update(client, made, "published")).published
    assert names(await update(client, made, "tags")) == []


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (["author_id"], "update_mask"),
        (["content", "author"], "update_mask"),
        (["id"], "update_mask"),
        (["published_at"], "update_mask"),
        (["etag"], "update_mask"),
        (["tags.name"], "update_mask"),
        (["content.x"], "update_mask"),
        (["nothing"], "update_mask"),
        (["title"], "post.title"),
        (["*"], "post.title"),
    ],
)
async def test_what_cannot_be_changed_is_refused(
    client: Client, mask: Sequence[str], fault: str
) -> None:
    made = await factories.create_post(client, tags=["Maths"])
    refusal = await refusal_of(update(client, made, *mask, author_id=made.author_id))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.fields) == {fault}
    assert await get(client, made.id) == made


async def test_an_update_that_changes_nothing_leaves_no_trace(client: Client) -> None:
    made = await factories.create_post(client, published=True, tags=["Maths", "Notes"])
    same: dict[str, Any] = {"title": made.title, "content": made.content, "published": True}
    same_tags = tags(" notes", "MATHS", "Notes")
    for mask in ([], ["*"], ["title"], ["published"], ["tags"]):
        assert await update(client, made, *mask, **same, tags=same_tags) == made
    assert await update(client, made) == made
    assert await get(client, made.id) == made


async def test_a_whole_post_can_be_sent_back_as_it_was_read(client: Client) -> None:
    made = await factories.create_post(client, published=True, tags=["Maths"])
    for mask in ([], ["*"]):
        request = pb.UpdatePostRequest(post=made, update_mask=FieldMask(paths=mask))
        assert (await client.posts.UpdatePost(request)).post == made


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["Letters"], ["Letters"]), (["Letters", "maths"], ["Letters", "Maths"]), ([], [])],
)
async def test_other_tags_are_a_change_of_the_post(
    client: Client, given: Sequence[str], expected: Sequence[str]
) -> None:
    made = await factories.create_post(client, tags=["Maths", "Notes"])
    after = await update(client, made, "tags", tags=tags(*given))
    assert names(after) == expected
    assert after.updated_at.ToNanoseconds() > made.updated_at.ToNanoseconds()
    assert after.etag != made.etag
    assert await get(client, made.id) == after


async def test_a_post_is_published_when_it_last_came_to_be(client: Client) -> None:
    draft = await factories.create_post(client)
    assert not draft.HasField("published_at")
    first = await update(client, draft, "published", published=True)
    assert draft.updated_at.ToNanoseconds() < first.updated_at.ToNanoseconds()
    assert first.published_at == first.updated_at

    renamed = await update(client, first, "title", "published", title="New", published=True)
    assert renamed.published_at == first.published_at
    assert renamed.etag != first.etag

    hidden = await update(client, renamed, "published")
    assert not hidden.HasField("published_at")
    again = await update(client, hidden, "published", published=True)
    assert again.updated_at.ToNanoseconds() > hidden.updated_at.ToNanoseconds()
    assert again.published_at == again.updated_at


async def test_an_update_goes_through_with_the_current_etag(client: Client) -> None:
    made = await factories.create_post(client)
    after = await update(client, made, "title", title="Second", etag=made.etag)
    again = await update(client, made, "tags", tags=tags("Maths"), etag=after.etag)
    last = await update(client, made, "title", title="Third", etag=again.etag)
    assert (last.title, names(last)) == ("Third", ["Maths"])


@pytest.mark.parametrize("act", ["title", "tags", "", "delete"])
@pytest.mark.parametrize("garbage", [None, "garbage", "0"])
async def test_a_stale_etag_stops_the_change(client: Client, act: str, garbage: str | None) -> None:
    made = await factories.create_post(client)
    current = await update(client, made, "title", title="New")
    etag = garbage or made.etag
    if act == "delete":
        refusal = await refusal_of(
            client.posts.DeletePost(pb.DeletePostRequest(id=made.id, etag=etag))
        )
    else:
        sent: dict[str, Any] = {"title": "New", "tags": tags("Maths"), "etag": etag}
        refusal = await refusal_of(update(client, made, *act.split(), **sent))
    assert refusal.what == stale("post", made.id)
    assert await get(client, made.id) == current
    assert list((await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags) == []


async def test_of_ten_who_change_what_they_have_read_one_does(client: Client) -> None:
    made = await factories.create_post(client)
    outcomes = await asyncio.gather(
        *(
            outcome_of(update(client, made, tags=tags(f"tag {number}"), etag=made.etag))
            for number in range(10)
        )
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [refusal.what for refusal in refusals] == [stale("post", made.id)] * 9
    (winner,) = [outcome for outcome in outcomes if outcome not in refusals]
    assert await get(client, made.id) == winner


@pytest.mark.parametrize("etag", ["", "0"])
async def test_no_post_can_be_neither_changed_nor_removed(client: Client, etag: str) -> None:
    nothing = resources_pb2.Post(id=7)
    for call in (
        update(client, nothing, "tags", tags=tags("Maths"), etag=etag),
        client.posts.DeletePost(pb.DeletePostRequest(id=7, etag=etag)),
        add_tags(client, 7, "Maths"),
        remove_tags(client, 7, "Maths"),
    ):
        assert (await refusal_of(call)).what == missing("post", 7)
    assert list((await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags) == []


# DeletePost


@pytest.mark.parametrize("with_etag", [False, True])
async def test_a_deleted_post_is_gone_and_its_tags_stay(client: Client, *, with_etag: bool) -> None:
    made = await factories.create_post(client, tags=["Maths"])
    other = await factories.create_post(client, author_id=made.author_id, tags=["Maths", "Notes"])
    request = pb.DeletePostRequest(id=made.id, etag=made.etag if with_etag else "")
    assert await client.posts.DeletePost(request) == pb.DeletePostResponse()
    for call in (get(client, made.id), client.posts.DeletePost(request)):
        assert (await refusal_of(call)).what == missing("post", made.id)
    assert await list_pages(client) == [[summary_of(other)]]
    listed = (await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags
    assert [(tag.name, tag.post_count) for tag in listed] == [("Maths", 1), ("Notes", 1)]


# AddPostTags, RemovePostTags


async def test_tags_are_added_to_those_that_are_there(client: Client) -> None:
    made = await factories.create_post(client, tags=["Maths"])
    after = await add_tags(client, made.id, "notes ", "Letters", "NOTES", "maths")
    assert names(after) == ["Letters", "Maths", "notes"]
    assert (after.content, after.author) == (made.content, made.author)
    assert after.updated_at.ToNanoseconds() > made.updated_at.ToNanoseconds()
    assert after.etag != made.etag
    assert await get(client, made.id) == after


async def test_tags_are_taken_from_those_that_are_there(client: Client) -> None:
    made = await factories.create_post(client, tags=["Letters", "Maths", "Notes"])
    await factories.create_tags(client, "Unused")
    after = await remove_tags(client, made.id, " MATHS", "letters", "unused", "Unknown")
    assert names(after) == ["Notes"]
    assert (after.content, after.author) == (made.content, made.author)
    assert after.updated_at.ToNanoseconds() > made.updated_at.ToNanoseconds()
    assert after.etag != made.etag
    assert await get(client, made.id) == after
    listed = (await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags
    assert [tag.name for tag in listed] == ["Letters", "Maths", "Notes", "Unused"]


async def test_tags_that_change_nothing_leave_no_trace(client: Client) -> None:
    made = await factories.create_post(client, tags=["Maths", "Notes"])
    await factories.create_tags(client, "Unused")
    assert await add_tags(client, made.id, "MATHS", " notes") == made
    assert await remove_tags(client, made.id, "Unused", "Unknown") == made
    assert await get(client, made.id) == made


async def test_tags_beyond_what_a_post_may_have_are_refused(client: Client) -> None:
    made = await factories.create_post(client, tags=[f"tag {number}" for number in range(50)])
    refusal = await refusal_of(add_tags(client, made.id, "one more"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "TOO_MANY_TAGS"
    assert await get(client, made.id) == made


async def test_all_tags_that_are_added_at_once_are_there(client: Client) -> None:
    made = await factories.create_post(client)
    given = [f"tag {number}" for number in range(10)]
    await asyncio.gather(*(add_tags(client, made.id, each, "Shared") for each in reversed(given)))
    assert names(await get(client, made.id)) == ["Shared", *given]


async def get(
    client: Client, post_id: int, view: pb.PostView.ValueType = pb.POST_VIEW_UNSPECIFIED
) -> resources_pb2.Post:
    return (await client.posts.GetPost(pb.GetPostRequest(id=post_id, view=view))).post


async def count(client: Client, **where: Any) -> int:  # noqa: ANN401 - any field of PostFilter
    request = pb.CountPostsRequest(filter=pb.PostFilter(**where))
    return (await client.posts.CountPosts(request)).count


async def list_pages(client: Client, **asked: Any) -> list[list[resources_pb2.Post]]:  # noqa: ANN401 - any field of ListPostsRequest
    """Follows a list to its end."""
    request = pb.ListPostsRequest(**asked)
    pages = []
    while True:
        answer = await client.posts.ListPosts(request)
        pages.append(list(answer.posts))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


async def update(
    client: Client,
    post: resources_pb2.Post,
    *mask: str,
    **sent: Any,  # noqa: ANN401 - any field of Post
) -> resources_pb2.Post:
    request = pb.UpdatePostRequest(
        post=resources_pb2.Post(id=post.id, **sent), update_mask=FieldMask(paths=mask)
    )
    return (await client.posts.UpdatePost(request)).post


async def add_tags(client: Client, post_id: int, *given: str) -> resources_pb2.Post:
    request = pb.AddPostTagsRequest(post_id=post_id, tags=given)
    return (await client.posts.AddPostTags(request)).post


async def remove_tags(client: Client, post_id: int, *given: str) -> resources_pb2.Post:
    request = pb.RemovePostTagsRequest(post_id=post_id, tags=given)
    return (await client.posts.RemovePostTags(request)).post


def tags(*given: str) -> list[resources_pb2.Tag]:
    return [resources_pb2.Tag(name=name) for name in given]


def names(post: resources_pb2.Post) -> list[str]:
    """The names of a post's tags, which carry no counts."""
    assert not any(tag.HasField("post_count") for tag in post.tags)
    return [tag.name for tag in post.tags]
