"""The model behind the server, opened and closed."""

import asyncio

import pytest
from loops import in_a_loop

from pixtral_mlx.server.host import ModelHost
from pixtral_mlx.server.options import ServerOptions
from pixtral_mlx.server.refusals import Refusal


def test_requests_are_told_to_wait_while_it_is_opened_for_the_first_time(folder):
    async def ask():
        host = ModelHost(str(folder), ServerOptions())
        opening = asyncio.ensure_future(host.open())
        await asyncio.sleep(0)
        try:
            with pytest.raises(Refusal) as caught:
                await host.model()
            assert (caught.value.status, caught.value.code) == (503, "model_loading")
            assert caught.value.headers["retry-after"] and not host.ready
            assert await opening is await host.model() and host.ready
        finally:
            await host.close()

    in_a_loop(ask)


def test_a_model_whose_thread_has_ended_is_opened_again(folder):
    async def ask():
        host = ModelHost(str(folder), ServerOptions())
        try:
            first = await host.open()
            host.worker.close()
            again = await host.model()
            assert again is not first
            reply = await asyncio.wrap_future(
                host.worker.submit(lambda model: model.generate("x", max_tokens=1))
            )
            assert len(reply.tokens) <= 1 and reply.finish_reason
        finally:
            await host.close()

    in_a_loop(ask)


def test_a_folder_that_is_none_is_said_and_tried_again(tmp_path):
    async def ask():
        host = ModelHost(str(tmp_path / "nothing"), ServerOptions())
        for _ in range(2):
            with pytest.raises(Exception, match="no such folder"):
                await host.open()
        assert not host.ready
        await host.close()

    in_a_loop(ask)
