"""PostService: what users write."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from byline.v1 import posts_pb2 as pb
from byline.v1.posts_pb2_grpc import PostServiceServicer

from service import convert, pagination
from storage import posts
from storage.lookups import Lookups

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from storage.database import Database

    Context = ServicerContext[Any, Any]


class Posts(PostServiceServicer):
    """Serves `byline.v1.PostService`; the contract is in posts.proto."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._summaries = Lookups(database, "post", posts.batch_get)
        self._posts = Lookups(database, "post", partial(posts.batch_get, full=True))

    async def CreatePost(self, request: pb.CreatePostRequest, _: Context) -> pb.CreatePostResponse:
        """Makes a post."""
        new = posts.NewPost(
            author_id=request.author_id,
            title=request.title,
            content=request.content,
            published=request.published,
            tags=request.tags,
        )
        async with self._db.transaction(single=True) as tx:
            row = await posts.create(tx, new)
        return pb.CreatePostResponse(post=convert.to_post(row))

    async def GetPost(self, request: pb.GetPostRequest, _: Context) -> pb.GetPostResponse:
        """Returns one post."""
        lookups = self._summaries if request.view == pb.POST_VIEW_SUMMARY else self._posts
        row = await lookups.get(request.id)
        return pb.GetPostResponse(post=convert.to_post(row))

    async def BatchGetPosts(
        self, request: pb.BatchGetPostsRequest, _: Context
    ) -> pb.BatchGetPostsResponse:
        """Returns posts by id."""
        ids = list(request.ids)
        full = request.view == pb.POST_VIEW_FULL
        async with self._db.read() as read:
            found = await posts.batch_get(read, ids, full=full)
        present, missing = convert.in_order(ids, found)
        response = pb.BatchGetPostsResponse(missing_ids=missing)
        convert.add_posts(response.posts, present)
        return response

    async def ListPosts(self, request: pb.ListPostsRequest, _: Context) -> pb.ListPostsResponse:
        """Returns a page of posts."""
        where = convert.from_post_filter(request.filter)
        window = pagination.window(request)
        full = request.view == pb.POST_VIEW_FULL
        async with self._db.read() as read:
            page = await posts.list_page(read, where, window, full=full)
        response = pb.ListPostsResponse(next_page_token=pagination.token(page.next, request))
        convert.add_posts(response.posts, page.rows)
        return response

    async def CountPosts(self, request: pb.CountPostsRequest, _: Context) -> pb.CountPostsResponse:
        """Counts posts."""
        where = convert.from_post_filter(request.filter)
        async with self._db.read() as read:
            total = await posts.count(read, where)
        return pb.CountPostsResponse(count=total)

    async def UpdatePost(self, request: pb.UpdatePostRequest, _: Context) -> pb.UpdatePostResponse:
        """Changes a post."""
        changes = convert.post_changes(request.post, request.update_mask)
        since = convert.from_etag(request.post.etag)
        async with self._db.transaction() as tx:
            row = await posts.update(tx, request.post.id, changes, unchanged_since=since)
        return pb.UpdatePostResponse(post=convert.to_post(row))

    async def DeletePost(self, request: pb.DeletePostRequest, _: Context) -> pb.DeletePostResponse:
        """Removes a post."""
        since = convert.from_etag(request.etag)
        async with self._db.transaction() as tx:
            await posts.delete(tx, request.id, unchanged_since=since)
        return pb.DeletePostResponse()

    async def AddPostTags(
        self, request: pb.AddPostTagsRequest, _: Context
    ) -> pb.AddPostTagsResponse:
        """Gives a post tags."""
        async with self._db.transaction() as tx:
            row = await posts.add_tags(tx, request.post_id, request.tags)
        return pb.AddPostTagsResponse(post=convert.to_post(row))

    async def RemovePostTags(
        self, request: pb.RemovePostTagsRequest, _: Context
    ) -> pb.RemovePostTagsResponse:
        """Takes tags from a post."""
        async with self._db.transaction() as tx:
            row = await posts.remove_tags(tx, request.post_id, request.tags)
        return pb.RemovePostTagsResponse(post=convert.to_post(row))
