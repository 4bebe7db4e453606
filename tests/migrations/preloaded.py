"""What a migrator imports as it goes, for those that are forked to have it already."""

import aiosqlite
import asyncmy
import asyncpg

import migrations

DRIVERS = (aiosqlite, asyncmy, asyncpg)

for scheme in ("postgresql+asyncpg", "mysql+asyncmy", "sqlite+aiosqlite"):
    migrations.sql(f"{scheme}://")
