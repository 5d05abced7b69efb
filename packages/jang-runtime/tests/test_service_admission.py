"""The door of a server: who is inside, and what other threads see of it."""

import asyncio
import sys
import threading

from jang_runtime._service.admission import Admission


def test_the_page_of_metrics_counts_requests_while_they_come_and_go() -> None:
    faults: list[BaseException] = []
    wrong: list[tuple[int, int]] = []
    is_over = threading.Event()

    def scrape(admission: Admission) -> None:
        while not is_over.is_set():
            try:
                seen = admission.queued, admission.active
            except RuntimeError as error:
                faults.append(error)
                return
            if not all(0 <= count <= 200 for count in seen):
                wrong.append(seen)

    async def come_and_go() -> None:
        admission = Admission(max_queued=1000, max_active=1)
        admission.open_door()
        reader = threading.Thread(target=scrape, args=(admission,))
        reader.start()
        for _ in range(50):
            await asyncio.gather(*(one(admission, str(name)) for name in range(200)))
        assert (admission.queued, admission.active, admission.open) == (0, 0, 0)
        is_over.set()
        reader.join()

    async def one(admission: Admission, name: str) -> None:
        with admission.enter("", name) as entry:
            await asyncio.sleep(0)
            if int(name) % 2:
                admission.begin(entry)
            await asyncio.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asyncio.run(come_and_go())
    finally:
        is_over.set()
        sys.setswitchinterval(interval)
    assert not faults
    assert not wrong
