"""Properties of the operator's door: whatever is sent, it answers as HTTP has it, and never fails."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.door import READER, TOKEN, OperatorDoor, bearer
from tests.operator.test_door import OPERATIONS

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [A-Za-z -]+\r\n")

METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"get", b"\xff"])
PATHS = st.one_of(
    st.sampled_from(
        [b"/", b"*", b"/login", b"/logout", b"/api/v1", b"/api/v1/", b"/api/v1/things/a?count=", b"//", b""]
    ),
    st.binary(max_size=30).map(lambda tail: b"/api/v1/things/" + tail.translate(None, b" \r\n")),
    st.binary(max_size=30).map(lambda tail: b"/api/v1/things/a?" + tail.translate(None, b" \r\n")),
)
VALUES = st.one_of(
    st.sampled_from(
        [
            b"chunked",
            b"100-continue",
            b"close",
            b"application/json",
            b"text/html",
            b"localhost",
            b"0",
            b"7",
            b"-1",
            b"9999999",
        ]
    ),
    st.binary(max_size=20),
)
NAMES = st.sampled_from(
    [
        *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Connection", b"Content-Type", b"Cookie"),
        *(b"Origin", b"Sec-Fetch-Site", b"X-CSRF-Token", b"Authorization", b"X\xff", b""),
    ]
)
FIELDS = st.lists(
    st.one_of(
        st.tuples(NAMES, VALUES).map(lambda field: b"%s: %s" % field),
        st.sampled_from([bearer(TOKEN), bearer(READER), b"Host: localhost", b"Content-Type: application/json"]),
    ),
    max_size=6,
)
REQUESTS = st.builds(
    lambda method, path, version, fields, body: b"\r\n".join(
        [b"%s %s HTTP/%s" % (method, path, version), *fields, b"", body]
    ),
    METHODS,
    PATHS,
    st.sampled_from([b"1.1", b"1.0", b"2", b"1.1 "]),
    FIELDS,
    st.one_of(st.binary(max_size=40), st.sampled_from([b'{"version": "1"}', b"3\r\nabc\r\n0\r\n\r\n", b"token=x"])),
)


class AnyBytesTests(SynchronousTestCase):
    """Anything that may come over a connection."""

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(REQUESTS, st.lists(REQUESTS, max_size=3).map(b"".join), st.binary(max_size=100)), st.integers(1, 99)
    )
    def test_answers(self, data: bytes, size: int) -> None:
        """Each answer is whole, of a status that is meant, and nothing is logged as a failure."""
        door = OperatorDoor(self, [operation for operation in OPERATIONS if operation.name != "fail"])
        connection = door.connect()
        connection.send(*[data[start : start + size] for start in range(0, len(data), size)])
        door.clock.advance(10)
        rest = connection.received
        while rest:
            status = _STATUS.match(rest)
            assert status is not None, rest
            self.assertNotEqual(status[1], b"500", rest)
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: ([0-9]+)", head)
            if length is not None and not _STATUS.match(rest) and rest:
                body, rest = rest[: int(length[1])], rest[int(length[1]) :]
                self.assertEqual(len(body), int(length[1]))
                if b"problem+json" in head:
                    self.assertEqual(json.loads(body)["status"], int(status[1]))
        door.hang_up()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual([call for call in door.clock.getDelayedCalls() if call.active()], [])
