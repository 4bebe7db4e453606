"""SQL about users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage.errors import AlreadyExists
from tests import factories

if TYPE_CHECKING:
    from storage.database import Database


async def test_an_email_is_unique_without_regard_to_case(db: Database) -> None:
    await factories.add_user(db, email="ada@example.com")
    with pytest.raises(AlreadyExists) as refused:
        await factories.add_user(db, email="ADA@example.com")
    assert (refused.value.resource, refused.value.field) == ("user", "email")
