import asyncio

from router.edge.early import EarlyStatus
from router.errors import ClientGone
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_it_says_something_every_so_often_until_it_is_stopped() -> None:
    said: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def say() -> None:
        said.append(round(loop.time() - began))

    early = EarlyStatus(10, say)
    early.stop()
    early.start()
    await asyncio.sleep(35)
    early.stop()
    await asyncio.sleep(35)
    assert said == [10, 20, 30]


@virtual_time
async def test_it_ends_when_the_client_is_gone() -> None:
    said: list[int] = []

    async def say() -> None:
        said.append(1)
        raise ClientGone

    EarlyStatus(10, say).start()
    await asyncio.sleep(35)
    assert said == [1]
