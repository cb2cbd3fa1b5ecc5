import asyncio

import pytest

from ledger_site import Site


@pytest.fixture
async def site(database_url):
    made = await asyncio.to_thread(Site, database_url)
    yield made
    await made.ledger.close()
    made.others.dispose()
