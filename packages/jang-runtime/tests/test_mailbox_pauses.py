"""Deltas that come soon after another wait for each other; nothing else does."""

import asyncio

import pytest

from jang_runtime._errors import SlowReaderError
from jang_runtime._events import Delta, Event, Finished, FinishReason, Timings
from jang_runtime._service.mailbox import Mailbox

HOUR = 3600.0
END = Finished(FinishReason.EOS, None, 1, 3, Timings(0, 0, 0))


def delta(token: int) -> Delta:
    return Delta(text=chr(token), token_ids=(token,))


async def turns_of_the_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_first_token_and_the_end_never_wait_and_bring_along_what_does() -> None:
    async def read() -> list[Event]:
        mailbox = Mailbox(limit=10_000, pause=lambda: HOUR)
        mailbox.put(delta(65))
        seen = [await mailbox.get()]
        following = asyncio.ensure_future(mailbox.get())
        for token in (66, 67):
            mailbox.put(delta(token))
            await turns_of_the_loop()
        assert not following.done()
        mailbox.put(END)
        seen += [await following, await mailbox.get()]
        return seen

    seen = asyncio.run(read())
    assert seen == [delta(65), Delta(text="BC", token_ids=(66, 67)), END]


def test_a_token_that_waits_comes_when_the_pause_is_over() -> None:
    async def read() -> Event:
        mailbox = Mailbox(limit=10_000, pause=lambda: 0.01)
        mailbox.put(delta(65))
        await mailbox.get()
        mailbox.put(delta(66))
        return await asyncio.wait_for(mailbox.get(), 60)

    assert asyncio.run(read()) == delta(66)


def test_without_a_pause_every_token_comes_by_itself() -> None:
    async def read() -> list[Event]:
        mailbox = Mailbox(limit=10_000, pause=lambda: 0)
        seen: list[Event] = []
        for token in (65, 66, 67):
            mailbox.put(delta(token))
            seen.append(await mailbox.get())
        return seen

    assert asyncio.run(read()) == [delta(65), delta(66), delta(67)]


def test_a_reader_that_is_too_slow_is_told_during_a_pause_too() -> None:
    async def read() -> None:
        mailbox = Mailbox(limit=200, pause=lambda: HOUR)
        mailbox.put(delta(65))
        await mailbox.get()
        for token in range(66, 80):
            mailbox.put(delta(token))
        with pytest.raises(SlowReaderError):
            await asyncio.wait_for(mailbox.get(), 60)

    asyncio.run(read())


def test_what_is_announced_twice_comes_once() -> None:
    async def read() -> None:
        mailbox = Mailbox(limit=10_000, pause=lambda: HOUR)
        mailbox.put(delta(65))
        await mailbox.get()
        mailbox.put(delta(66))
        mailbox.put(END)
        # The pause ends before the loop has looked at what was announced.
        mailbox._end_pause()
        assert [await mailbox.get(), await mailbox.get()] == [delta(66), END]
        following = asyncio.ensure_future(mailbox.get())
        await turns_of_the_loop()
        assert not following.done()
        following.cancel()

    asyncio.run(read())


def test_pauses_of_streams_that_began_apart_end_together() -> None:
    pause = 0.2

    async def read() -> list[float]:
        loop = asyncio.get_running_loop()
        mailboxes = [Mailbox(limit=10_000, pause=lambda: pause) for _ in range(3)]
        # Well inside of one pause's time.
        await asyncio.sleep(pause - loop.time() % pause)
        for mailbox in mailboxes:
            await asyncio.sleep(pause / 20)
            mailbox.put(delta(65))
            await mailbox.get()
            mailbox.put(delta(66))

        async def end(mailbox: Mailbox) -> float:
            await mailbox.get()
            return loop.time()

        return await asyncio.gather(*(end(mailbox) for mailbox in mailboxes))

    ends = asyncio.run(read())
    # Apart from one another they would end at intervals of a twentieth of a pause.
    assert max(ends) - min(ends) < pause / 20
