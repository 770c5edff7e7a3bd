"""Engines that answer, but not with an answer: what no client may take for one."""

import pytest

from router.sim.faults import Fault
from tests.support.fault_rows import scaled, trial

pytestmark = pytest.mark.timeout(120)

FAULTS = {
    "200 and nothing": Fault("empty_200", share=0.2),
    "200 and an HTML page": Fault("wrong_content_type", share=0.2),
    "an answer without its end": Fault("truncate", tokens=4, share=0.2),
    "garbage at once": Fault("garbage", tokens=0, share=0.2),
    "garbage in mid-stream": Fault("garbage", tokens=4, share=0.2),
    "an event of 10 MB": Fault("big_event", share=0.05),
    "an error event in mid-stream": Fault("mid_stream_error", tokens=4, share=0.2),
}


@pytest.mark.parametrize("answer", FAULTS)
async def test_f31_what_is_no_answer_is_not_passed_off_as_one(answer: str) -> None:
    requests = scaled(60, 1000)
    async with trial("F31", f"decode answers with {answer}", leaks=None) as here:
        for fleet in here.decode:
            await fleet.add("decode", FAULTS[answer])
        for stream in (True, False):
            await here.load(requests, stream=stream)
        assert (here.row.lost, here.row.wrong) == (0, 0), here.why_lost
        assert (await here.totals(here.decode))["faults"] > 0
