"""TagService: what posts can be about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from byline.v1 import tags_pb2 as pb
from byline.v1.tags_pb2_grpc import TagServiceServicer

from service import convert, pagination
from storage import tags

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from storage.database import Database

    Context = ServicerContext[Any, Any]


class Tags(TagServiceServicer):
    """Serves `byline.v1.TagService`; the contract is in tags.proto."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def CreateTags(self, request: pb.CreateTagsRequest, _: Context) -> pb.CreateTagsResponse:
        """Makes tags, or finds them."""
        async with self._db.transaction() as tx:
            rows = await tags.create(tx, request.names)
        response = pb.CreateTagsResponse()
        convert.add_tags(response.tags, rows)
        return response

    async def GetTag(self, request: pb.GetTagRequest, _: Context) -> pb.GetTagResponse:
        """Returns one tag."""
        key = convert.from_tag_key(request)
        async with self._db.read() as read:
            row = await tags.get(read, key)
        return pb.GetTagResponse(tag=convert.to_tag(row))

    async def ListTags(self, request: pb.ListTagsRequest, _: Context) -> pb.ListTagsResponse:
        """Returns a page of tags."""
        window = pagination.window(request, default="name")
        async with self._db.read() as read:
            page = await tags.list_page(read, request.prefix, window)
        response = pb.ListTagsResponse(next_page_token=pagination.token(page.next, request))
        convert.add_tags(response.tags, page.rows)
        return response

    async def UpdateTag(self, request: pb.UpdateTagRequest, _: Context) -> pb.UpdateTagResponse:
        """Renames a tag."""
        changes = convert.changes(request.tag, request.update_mask, ("name",))
        since = convert.from_etag(request.tag.etag)
        async with self._db.transaction() as tx:
            row = await tags.update(tx, request.tag.id, changes, unchanged_since=since)
        return pb.UpdateTagResponse(tag=convert.to_tag(row))

    async def DeleteTag(self, request: pb.DeleteTagRequest, _: Context) -> pb.DeleteTagResponse:
        """Removes a tag."""
        async with self._db.transaction() as tx:
            await tags.delete(tx, request.id)
        return pb.DeleteTagResponse()
