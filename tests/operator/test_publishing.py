"""Publishing at the operator's door: what is answered, what is offered then, and what is left behind."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware import folder
from ota_server.fleet.decision import Send
from ota_server.operator import publishing
from tests.images import damaged, esp32_image, esp8266_image
from tests.operator.door import READER, bearer, make_head
from tests.operator.library import LAMPS
from tests.operator.workshop import Told, Workshop

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class PublishingCase(SynchronousTestCase):
    """A test with a door that images come in by."""

    def shop(self, **more: Any) -> Workshop:
        """Return the door; files in the folder are as they were long ago, and new ones count as changing."""
        shop = Workshop(self, **more)
        self.patch(folder, "SETTLE_TIME", 1.0)
        self.patch(folder, "OPAQUE_SETTLE_TIME", 2.0)
        return shop

    def put(self, shop: Workshop, image: bytes, version: str = "1.2.3", *fields: bytes, **query: str) -> Told:
        """Publish an image of the lamp."""
        return shop.send("put_release", "lamp", version, body=image, fields=fields, **query)


class PuttingTests(PublishingCase):
    """`PUT /projects/{project}/releases/{version}`."""

    def test_new(self) -> None:
        """A new image is offered to the next device that asks, and all is known of it."""
        shop, image = self.shop(), esp8266_image()
        self.assertEqual(shop.check(1), "newer")
        status, told = self.put(shop, image)
        self.assertEqual((status, told["outcome"], told["notes"]), (201, "new", []))
        self.assertEqual(told["image"]["sha256"], hashlib.sha256(image).hexdigest())
        self.assertEqual((told["image"]["address"], told["image"]["offered"]), ("/lamp-1.2.3.bin", True))
        decision = shop.house.keeper.answer(shop.check_in(1), shop.house.catalog, "192.0.2.1")
        assert isinstance(decision, Send)
        self.assertEqual(decision.image.facts.sha256, told["image"]["sha256"])
        self.assertEqual(shop.files(), LAMPS | {"lamp-1.2.3.bin": image})
        self.assertEqual(shop.events(), [("published", "operator:admin")])

    def test_address(self) -> None:
        """The answer leads to the release."""
        shop = self.shop()
        connection = shop.begin("put_release", "lamp", "2.0", fields=(b"Content-Length: 1",), channel="beta")
        connection.send(b"x")
        shop.told(connection)
        line = next(each for each in connection.received.split(b"\r\n") if each.startswith(b"Location: "))
        self.assertEqual(line, b"Location: /api/v1/projects/lamp/releases/2.0.0?channel=beta")
        self.assertEqual(shop.fetch(line.partition(b": ")[2].decode())[1]["version"], "2.0.0")

    def test_again(self) -> None:
        """The same bytes again are 200 and no event; others are refused, unless they are to take the place."""
        shop = self.shop()
        self.assertEqual(self.put(shop, b"one")[0], 201)
        self.assertEqual(self.put(shop, b"one")[0], 200)
        status, problem = self.put(shop, b"two")
        self.assertEqual((status, problem["type"]), (409, "/problems/exists"))
        self.assertEqual(shop.files()["lamp-1.2.3.bin"], b"one")
        status, told = self.put(shop, b"two", replace="yes")
        self.assertEqual((status, told["outcome"]), (201, "replaced"))
        self.assertEqual(told["image"]["sha256"], hashlib.sha256(b"two").hexdigest())
        self.assertEqual(len(shop.events()), 2)

    def test_replaced_under_way(self) -> None:
        """Downloads of bytes that are replaced end, as for a halt."""
        shop = self.shop()
        assert shop.keeper is not None
        ended: list[str] = []
        check_in = shop.check_in(1)
        image = shop.house.catalog.channels["stable"].files["lamp-1.1.0.bin"]
        shop.keeper.answer(check_in, shop.house.catalog, "192.0.2.1")
        shop.keeper.watch(check_in, shop.house.catalog, "192.0.2.1", lambda: ended.append("")).begun(image)
        self.put(shop, b"other")
        self.assertEqual(ended, [])
        self.put(shop, b"other", "1.1.0", replace="yes")
        self.assertEqual(ended, [""])

    def test_names(self) -> None:
        """The name of the file says channel, kind, chip and compression."""
        shop = self.shop()
        for query, place in (
            ({}, "lamp-3.0.0.bin"),
            ({"kind": "filesystem"}, "lamp-3.0.0.fs.bin"),
            ({"chip": "esp32c3"}, "lamp-3.0.0.esp32c3.bin"),
            ({"compressed": "yes", "chip": "esp8266"}, "lamp-3.0.0.esp8266.bin.gz"),
            ({"channel": "beta", "kind": "app"}, "beta/lamp-3.0.0.bin"),
        ):
            self.assertEqual(self.put(shop, place.encode(), "3.0", **query)[0], 201)
            self.assertEqual(shop.files()[place], place.encode())

    def test_other_spelling(self) -> None:
        """A file of the same version in another spelling is the same place."""
        shop = self.shop(files={"lamp-1.0.bin": b"one"})
        self.assertEqual(self.put(shop, b"two", "1.0.0")[0], 409)
        status, told = self.put(shop, b"one", "1.0.0")
        self.assertEqual((status, told["image"]["file"]), (200, "lamp-1.0.bin"))
        self.assertEqual(self.put(shop, b"two", "1.0.0", replace="yes")[0], 201)
        self.assertEqual(shop.files(), {"lamp-1.0.bin": b"two"})

    def test_findings(self) -> None:
        """What is odd is taken, and said."""
        shop = self.shop()
        _, told = self.put(shop, b"old", "0.5.0")
        self.assertEqual([each["word"] for each in told["findings"]], ["lower-version"])
        _, told = self.put(shop, b"two", "2.0.0")
        self.assertIn("same-bytes", [each["word"] for each in told["findings"]])

    def test_halted(self) -> None:
        """A release that is halted already goes to nobody, and that is said."""
        shop = self.shop()
        shop.update(1)
        shop.post("halt_rollout", "lamp", "1.1.0")
        _, told = self.put(shop, b"another", "1.1.0", replace="yes")
        self.assertIn("halted", told["notes"][0])

    def test_refused(self) -> None:
        """What a device could not use is refused, and nothing is left of it."""
        shop = self.shop()
        for image, query, word in (
            (damaged(esp8266_image(), -20), {}, "damaged"),
            (b"", {}, "damaged"),
            (esp32_image(chip="esp32c3"), {"chip": "esp32"}, "chip-differs"),
        ):
            status, problem = self.put(shop, image, "5.0.0", **query)
            self.assertEqual((status, problem["type"], problem["reason"]), (422, "/problems/bad-image", word))
        self.assertEqual((shop.files(), shop.events()), (LAMPS, []))

    def test_bad_requests(self) -> None:
        """What can't be meant is refused before the body is read."""
        shop = self.shop()
        good = base64.b64encode(hashlib.sha256(b"x").digest())
        for fields, query, version in (
            ((), {"kind": "other"}, "1.2.3"),
            ((), {"chip": "z80"}, "1.2.3"),
            ((), {"replace": "maybe"}, "1.2.3"),
            ((), {"channel": "../x"}, "1.2.3"),
            ((), {"channel": ".ota"}, "1.2.3"),
            ((), {}, "1.2.3-rc1"),
            ((), {}, ".."),
            ((b"Content-Digest: sha-256",), {}, "1.2.3"),
            ((b"Content-Range: bytes 0-1/2",), {}, "1.2.3"),
            ((b"Content-Encoding: gzip",), {}, "1.2.3"),
        ):
            connection = shop.begin(
                "put_release", "lamp", version, fields=(*fields, b"Content-Length: 100000"), **query
            )
            self.assertEqual(shop.told(connection)[0], 400, (fields, query, version))
        for project in ("../../etc", ".ota", "a/b", "%2e%2e", "x" * 250):
            status, _ = shop.send(
                "put_release", project, "1.0", body=b"x", fields=(b"Content-Digest: sha-256=:%s:" % good,)
            )
            self.assertIn(status, (400, 404), project)
        self.assertEqual(shop.files(), LAMPS)

    def test_digest(self) -> None:
        """A body that isn't as `Content-Digest` says is refused."""
        shop = self.shop()
        for digest, status in ((hashlib.sha256(b"x"), 201), (hashlib.sha256(b"y"), 400), (hashlib.sha512(b"x"), 200)):
            name = b"sha-%d" % (digest.digest_size * 8)
            field = b"Content-Digest: %s=:%s:" % (name, base64.b64encode(digest.digest()))
            self.assertEqual(self.put(shop, b"x", "1.2.3", field)[0], status)

    def test_too_large(self) -> None:
        """What is too large is refused unread where its length is told, and else as soon as it shows."""
        shop = self.shop(max_image=1000)
        connection = shop.begin("put_release", "lamp", "9.0", fields=(b"Content-Length: 1001", b"Expect: 100-continue"))
        self.assertEqual(shop.told(connection)[0], 413)
        self.assertNotIn(CONTINUE, connection.received)
        connection = shop.begin("put_release", "lamp", "9.0", fields=(b"Transfer-Encoding: chunked",))
        for _ in range(11):
            connection.send(b"64\r\n" + bytes(100) + b"\r\n")
        self.assertEqual(shop.told(connection)[0], 413)
        self.assertEqual(shop.files(), LAMPS)
        self.assertEqual(self.put(shop, bytes(1000))[0], 201)

    def test_disk_full(self) -> None:
        """A full disk is told before the body is sent, or as soon as it shows, and nothing is left on it."""
        if os.geteuid() != 0:
            raise SkipTest("NOT TESTED: a full disk, since only root may mount a small file system")
        shop = self.shop()
        beta = shop.folder / "beta"
        beta.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", beta], check=True)
        self.addCleanup(lambda: subprocess.run(["umount", beta], check=True) and None)
        fields = (b"Content-Length: 100000", b"Expect: 100-continue")
        connection = shop.begin("put_release", "lamp", "9.0", fields=fields, channel="beta")
        self.assertEqual((shop.told(connection)[0], CONTINUE in connection.received), (507, False))
        chunked = (b"Transfer-Encoding: chunked",)
        connection = shop.begin("put_release", "lamp", "9.0", fields=chunked, channel="beta")
        for _ in range(60):
            connection.send(b"4e20\r\n" + bytes(20_000) + b"\r\n")
        self.assertEqual((shop.told(connection)[0], shop.files()), (507, LAMPS))
        self.assertEqual(self.put(shop, bytes(40_000), "9.0", channel="beta")[0], 201)

    def test_asks_first(self) -> None:
        """A client that asks whether to send is told to once there is room, and not where it may not publish."""
        shop = self.shop()
        fields = (b"Content-Length: 3", b"Expect: 100-continue")
        connection = shop.begin("put_release", "lamp", "9.0", fields=fields)
        self.assertEqual(connection.received, CONTINUE)
        connection.send(b"one")
        self.assertEqual(shop.told(connection)[0], 201)
        connection = shop.connect()
        path = shop.path("put_release", "lamp", "9.1").encode()
        connection.send(make_head(b"PUT", path, bearer(READER), *fields))
        self.assertEqual(shop.told(connection)[0], 403)
        self.assertNotIn(CONTINUE, connection.received)

    def test_client_gone(self) -> None:
        """A client that leaves half-way leaves nothing behind, and may come again."""
        shop = self.shop()
        for sent in (b"", b"half", bytes(500_000)):
            connection = shop.begin("put_release", "lamp", "9.0", fields=(b"Content-Length: 600000",))
            connection.send(sent)
            connection.lose()
            shop.clock.advance(0)
            self.assertEqual(shop.files(), LAMPS)
        self.assertEqual(self.put(shop, b"whole", "9.0")[0], 201)

    def test_two_at_once(self) -> None:
        """Of two that come at the same time for one place the first that is whole wins."""
        shop = self.shop()
        connections = [shop.begin("put_release", "lamp", "9.0", fields=(b"Content-Length: 3",)) for _ in range(2)]
        for data in (b"o", b"n", b"e"):
            connections[0].send(data.upper())
            connections[1].send(data)
        self.assertEqual([shop.told(each)[0] for each in connections], [201, 409])
        self.assertEqual(shop.files()["lamp-9.0.0.bin"], b"ONE")

    def test_too_many(self) -> None:
        """So many uploads at once are taken, and no more; each that ends makes room."""
        shop = self.shop()
        self.patch(publishing, "MAX_UPLOADS", 2)
        begun = [shop.begin("put_release", "lamp", f"9.{n}", fields=(b"Content-Length: 3",)) for n in range(2)]
        self.assertEqual(self.put(shop, b"x")[0], 503)
        begun[0].lose()
        self.assertEqual(self.put(shop, b"x")[0], 201)
        begun[1].send(b"two")
        self.assertEqual(shop.told(begun[1])[0], 201)
        for number in range(4):
            self.assertEqual(self.put(shop, damaged(esp8266_image(), -20), f"8.{number}")[0], 422)
        self.assertEqual(self.put(shop, b"y", "7.0")[0], 201)

    def test_not_ready(self) -> None:
        """Before the folder was read for the first time nothing is taken."""
        shop = self.shop()
        shop.watcher.catalog = None
        self.assertEqual(self.put(shop, b"x")[0], 503)

    def test_without_ledger(self) -> None:
        """A server that remembers nothing publishes as well."""
        shop = self.shop(remembers=False)
        self.assertEqual(self.put(shop, b"x")[0], 201)
        self.assertEqual(shop.send("delete_release", "lamp", "1.2.3")[0], 200)

    def test_folder_trouble(self) -> None:
        """An image that is in the folder, and can't be offered, isn't told to be; and yet who put it there is known."""
        shop = self.shop()

        def fail(*ignored: object) -> None:
            raise PermissionError(13, "no")

        self.patch(shop.watcher._folder, "read", fail)
        status, problem = self.put(shop, b"x")
        self.assertEqual((status, problem["type"]), (503, "/problems/not-offered"))
        self.assertEqual(shop.events(), [("published", "operator:admin")])

    def test_ledger_unread(self) -> None:
        """While the ledger can't be read, nothing is changed that it would have to keep."""
        shop = self.shop()
        assert shop.keeper is not None
        files, policy = shop.files(), (shop.folder / "ota.toml").read_text()
        shop.keeper.fleet = None
        self.assertEqual(self.put(shop, b"x")[0], 503)
        self.assertEqual(shop.send("delete_release", "lamp", "1.1.0")[0], 503)
        self.assertEqual(shop.post("hold_device", "5C:CF:7F:00:00:01")[0], 503)
        self.assertEqual(shop.files(), files)
        self.assertEqual((shop.folder / "ota.toml").read_text(), policy)


class UploadingTests(PublishingCase):
    """`/upload/`, for curl."""

    def test_by_name(self) -> None:
        """The name of the file says all, by PUT and by POST, with a channel in the path or beside it."""
        shop = self.shop()
        cases: tuple[tuple[str, tuple[str, ...], dict[str, Any], str], ...] = (
            ("upload", ("door-1.2.bin",), {}, "door-1.2.bin"),
            ("upload_by_post", ("door-1.3.fs.bin",), {}, "door-1.3.fs.bin"),
            ("upload", ("door-1.2.bin",), {"channel": "beta"}, "beta/door-1.2.bin"),
            ("upload_to_channel", ("beta", "door-1.4.bin"), {}, "beta/door-1.4.bin"),
            ("upload_to_channel_by_post", ("gamma", "my-door+x-1.4.bin"), {}, "gamma/my-door+x-1.4.bin"),
            ("upload_to_channel", ("stable", "door-1.5.bin"), {}, "door-1.5.bin"),
        )
        for name, in_path, query, place in cases:
            status, told = shop.send(name, *in_path, body=place.encode(), **query)
            self.assertEqual((status, shop.files()[place]), (201, place.encode()), told)

    def test_bad_names(self) -> None:
        """A name outside of the scheme is refused, whatever it tries."""
        shop = self.shop()
        for name in ("lamp.bin", "lamp-1.0.zip", "../lamp-1.0.bin", "..%2flamp-1.0.bin", ".lamp-1.0.bin", "ota.toml",
                     "lamp-1.0.bin\0", "lamp-1.0.bin/..", "a/../lamp-1.0.bin"):  # fmt: skip
            status, problem = shop.send("upload", name, body=b"x")
            self.assertIn(status, (400, 404), problem)
        self.assertEqual(shop.files(), LAMPS)
