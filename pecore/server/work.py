"""Where the work is done: one thread for the model, a few that decode, and a bounded number of items in all.

The interpreter is not made for two callers, and two inferences at a time on the same cores are no faster than one after
the other. Items, not requests, take turns: a batch of eight does not hold up a single image more than it has to.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from pecore.server.errors import busy

T = TypeVar("T")


class Workers:
    """The threads of a server. Not started before they are used; `close` waits for what runs.

    Cancelling a call drops it, if it has not begun: a client that went away costs nothing more.
    """

    def __init__(self, decoders: int, queue: int) -> None:
        self._model = ThreadPoolExecutor(1, thread_name_prefix="pecore-model")
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="pecore-decode")
        self._bound = queue
        self.items = 0

    @property
    def full(self) -> bool:
        """No item more is taken."""
        return self.items >= self._bound

    @asynccontextmanager
    async def room_for(self, items: int) -> AsyncIterator[None]:
        """Reserve places in the queue for as long as the block lasts.

        Raises:
            ApiError: 503, when there is no room for them.
        """
        if self.items + items > self._bound:
            raise busy(f"{self.items} images and texts are waiting, and {self._bound} is the limit")
        self.items += items
        try:
            yield
        finally:
            self.items -= items

    async def on_model(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in the model's thread, in turn."""
        return await asyncio.get_running_loop().run_in_executor(self._model, partial(function, *args))

    async def on_decoder(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in one of the decoding threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, partial(function, *args))

    def close(self) -> None:
        """End the threads after what they are at."""
        for pool in (self._model, self._decoders):
            pool.shutdown(wait=True, cancel_futures=True)
