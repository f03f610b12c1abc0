"""Tests of the gate of the device door: who comes in, by a token or a certificate, and what the others are answered."""

from __future__ import annotations

from OpenSSL.crypto import X509

from tests.web.answers import Answer, read_only_answer
from tests.web.gating import (
    CERTIFICATES,
    FILES,
    FLEET,
    GROUP,
    MAC,
    OTHER,
    OWN,
    POLICY,
    THEIRS,
    CertifiedTransport,
    GateCase,
    basic,
    bearer,
    esp8266,
    hash_of,
    make_certificate,
    request,
)
from tests.web.memory import MemoryDoor


class TokenTests(GateCase):
    """Who comes in with a token."""

    def test_ways(self) -> None:
        """A token may come in each of the ways, to each address, with each method."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp-1.0.0.bin", b"/lamp.bin.md5", b"/beta/lamp", b"/beta/lamp.bin"):
            for method in (b"GET", b"HEAD"):
                self.assertEqual(self.door.ask(path, bearer(FLEET), method=method).code, 200)
                self.assertEqual(self.door.ask(path, basic(FLEET), method=method).code, 200)
                self.assertEqual(self.door.ask(path + b"?token=" + FLEET, method=method).code, 200)
        answer = self.door.ask(b"/lamp.bin", basic(FLEET), b"Range: bytes=1-2")
        self.assertEqual((answer.code, answer.body), (206, b"se"))

    def test_without(self) -> None:
        """Nothing is told to who brings none, not even which addresses there are."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp-1.0.0.bin", b"/lamp.bin.md5", b"/lamp.bin.sha256", b"/beta/lamp",
                     b"/nothing", b"/beta", b"/-/", b"/-/metrics", b"/-/ready/x", b"/%2d/ready", b"/lamp?chip=esp32",
                     b"/../-/ready", b"/x/../-/ready", b"http://h/lamp", b"/lamp?xtoken=" + FLEET):  # fmt: skip
            self.settle()
            for method in (b"GET", b"HEAD", b"POST"):
                answer = self.door.ask(path, *esp8266(), method=method)
                self.refused(answer, 401, "token-needed")
                self.assertEqual(answer.body, b"" if method == b"HEAD" else b"a token is needed\n")

    def test_open_addresses(self) -> None:
        """Supervisors need no token, however they write the addresses, and other methods are told what works."""
        for path in (b"/", b"/-/healthy", b"/-/ready", b"//-//ready/", b"/?x", b"http://h/-/ready"):
            self.assertEqual(self.door.ask(path).code, 200)
        self.assertEqual(self.door.ask(b"/-/ready", method=b"POST").code, 405)
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), method=b"POST").code, 405)
        self.assertEqual(self.door.ask(b"/nothing", bearer(FLEET)).code, 404)

    def test_wrong(self) -> None:
        """All that is not quite a token."""
        for field in (
            bearer(OWN[:-1]), bearer(OWN + b"x"), bearer(b""), basic(b""), basic(OWN[:-1]), basic(OWN + b"x"),
            basic(OWN + b"\0"), b"Authorization: Basic ???", b"Authorization: " + OWN, b"Authorization: Digest x",
            b"Authorization:", b"Authorization: Bearer " + b"x" * 10_000, basic(b"x" * 7500),
            bearer(OWN) + b"\r\n" + bearer(OWN), bearer(b"x") + b"\r\n" + bearer(OWN),
        ):  # fmt: skip
            self.settle()
            self.refused(self.door.ask(b"/lamp", field), 401, "token-wrong")
        for query in (b"", OWN[:-1], OWN + b"x", OWN + b"%00", OWN + b"&token=" + OWN, b"x" * 10_000):
            self.settle()
            self.refused(self.door.ask(b"/lamp?token=" + query), 401, "token-wrong")
        self.assertEqual(self.door.ask(b"/lamp?token=%66" + FLEET[1:]).code, 200)

    def test_nul(self) -> None:
        """A header with a NUL in it brings nobody in, whoever reads it."""
        for field in (bearer(OWN + b"\0"), bearer(b"\0" + OWN), b"Authorization\0: Bearer " + OWN):
            self.settle()
            connection = self.door.connect()
            connection.send(request(b"/lamp", field))
            self.assertRegex(connection.received, rb"\AHTTP/1\.1 40[01] ")
            self.assertTrue(connection.transport.disconnecting)
            connection.lose()

    def test_another_device(self) -> None:
        """A token of A asked with as B is refused; at plain addresses, too."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp.bin.md5", b"/nothing"):
            self.settle()
            self.refused(self.door.ask(path, bearer(THEIRS), *esp8266(MAC)), 403, "wrong-device")
            self.refused(self.door.ask(path, bearer(GROUP), *esp8266(OTHER)), 403, "wrong-device")
        self.assertEqual(self.door.ask(b"/lamp", bearer(THEIRS), *esp8266(OTHER)).reason, "newer")

    def followed(self) -> dict[str, str]:
        """Return the devices that are remembered, with their versions."""
        assert self.door.keeper is not None
        return {name: str(device.version) for name, device in self.door.keeper.loaded.devices.items()}

    def test_proven(self) -> None:
        """Who is proven gets the device's settings, and is remembered as it, also where it tells nothing."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(OWN)).reason, "held")
        self.assertEqual(self.followed(), {MAC: "None"})
        self.assertEqual(self.door.ask(b"/lamp", bearer(OWN), *esp8266(None)).reason, "held")
        self.assertEqual(self.followed(), {MAC: "1.0.0"})

    def test_group(self) -> None:
        """A member that says who it is is followed; who doesn't gets no settings, and isn't."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(GROUP), *esp8266(None)).reason, "newer")
        self.assertEqual(self.followed(), {})
        self.assertEqual(self.door.ask(b"/lamp", bearer(GROUP), *esp8266()).reason, "held")
        self.assertEqual(self.followed(), {MAC: "1.0.0"})

    def test_fleet(self) -> None:
        """Any device may use the fleet's, and is who it says it is."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), *esp8266()).reason, "held")
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), *esp8266("24:6F:28:00:00:02")).reason, "newer")
        self.assertEqual(list(self.followed()), [MAC, "24:6F:28:00:00:02"])

    def test_before_the_folder_is_read(self) -> None:
        """Who waits for the folder has been let in, and is judged once more when it is read."""
        self.door = MemoryDoor(self, FILES, policy=POLICY, read=False)
        self.change(POLICY)
        self.refused(self.door.ask(b"/lamp"), 401, "token-needed")
        waiting = [self.door.connect() for _ in range(2)]
        waiting[0].send(request(b"/lamp?token=" + OWN + b"&chip=esp32"))
        waiting[1].send(request(b"/lamp?token=" + FLEET))
        self.assertEqual([connection.received for connection in waiting], [b"", b""])
        self.change(POLICY.replace(hash_of(FLEET), hash_of(b"another")))
        self.door.read()
        self.assertEqual(read_only_answer(waiting[0].received).reason, "held")
        self.refused(read_only_answer(waiting[1].received), 401, "token-wrong")

    def test_open(self) -> None:
        """Where it is open nothing is looked at, and nothing is judged."""
        for policy in ("", '[access]\ndevices = "open"\n[devices.7]\ntoken = ' + hash_of(OWN)):
            self.change(policy)
            self.assertIsNone(self.door.site.gate)
            for field in (bearer(b"x"), bearer(OWN), b"Authorization: ?"):
                self.assertEqual(self.door.ask(b"/lamp", field, *esp8266()).reason, "newer")


class CertificateTests(GateCase):
    """Who comes in with a certificate."""

    def setUp(self) -> None:
        """Open a door that asks for certificates."""
        self.door = self.open(CERTIFICATES, asks_for_certificates=True)

    def ask(self, certificate: X509 | None, *fields: bytes, path: bytes = b"/lamp") -> Answer:
        """Return the answer over a connection with this certificate."""
        connection = self.connect(certificate)
        connection.send(request(path, *fields))
        return read_only_answer(connection.received)

    def test_needed(self) -> None:
        """Without a certificate, over whatever connection, nothing but the open addresses is served."""
        for path in (b"/lamp", b"/lamp.bin", b"/nothing"):
            self.settle()
            self.refused(self.ask(None, path=path), 403, "certificate-needed")
            self.refused(self.door.ask(path, bearer(OWN)), 403, "certificate-needed")
        self.assertEqual(self.ask(None, path=b"/-/ready").code, 200)

    def test_proven(self) -> None:
        """The name is an id, a name of the policy, or an id of its own."""
        for name, fields, reason in (
            (MAC, esp8266(), "held"),
            ("5ccf7f001122", esp8266(None), "held"),
            ("kitchen", (), "held"),
            ("sensor-17", esp8266(OTHER), "newer"),
            (OTHER, esp8266(), "wrong-device"),
            ("kitchen", esp8266(OTHER), "wrong-device"),
        ):
            with self.subTest(name):
                self.assertEqual(self.ask(make_certificate(name), *fields).reason, reason)
        assert self.door.keeper is not None
        self.assertEqual(list(self.door.keeper.loaded.devices), [MAC, "CN=sensor-17"])

    def test_settings_of_a_name(self) -> None:
        """A device known by its certificate alone has settings of its own."""
        self.change(CERTIFICATES + '[devices."CN=sensor-17"]\nhold = true')
        self.assertEqual(self.ask(make_certificate("sensor-17")).reason, "held")
        self.assertEqual(self.ask(make_certificate("sensor-18")).reason, "no-version")

    def test_once(self) -> None:
        """The certificate is looked at once for each connection, and the policy's names each time."""
        connection = self.connect(make_certificate("cellar"))
        for _ in range(3):
            connection.send(request(b"/lamp", *esp8266(None, "1.2.0")))
        self.assertTrue(connection.channel._plain)
        self.change(CERTIFICATES.replace("kitchen", "cellar"))
        connection.send(request(b"/lamp.bin"), request(b"/lamp", *esp8266(None)))
        assert isinstance(connection.transport, CertifiedTransport)
        self.assertEqual(connection.transport.asked, 1)
        self.assertTrue(connection.received.endswith(b"X-OTA-Reason: held\r\nContent-Length: 0\r\n\r\n"))

    def test_whatever_is_asked(self) -> None:
        """It goes before the MAC address where nothing is asked for, too; without one all are served."""
        for policy in ("", '[access]\ndevices = "open"\n'):
            self.change(f'{policy}[devices."{MAC}"]\nname = "kitchen"\nhold = true')
            self.assertEqual(self.ask(make_certificate("kitchen")).reason, "held")
            self.refused(self.ask(make_certificate("kitchen"), *esp8266(OTHER)), 403, "wrong-device")
            self.assertEqual(self.ask(None, *esp8266(OTHER)).reason, "newer")

    def test_with_tokens(self) -> None:
        """Where tokens are asked for, one is needed besides, for the same device."""
        self.change(POLICY)
        certificate = make_certificate("kitchen")
        self.refused(self.ask(certificate), 401, "token-needed")
        self.assertEqual(self.ask(certificate, bearer(OWN)).reason, "held")
        self.assertEqual(self.ask(certificate, bearer(FLEET)).reason, "held")
        self.refused(self.ask(certificate, bearer(THEIRS)), 403, "wrong-device")
        self.assertEqual(self.ask(make_certificate("sensor-17"), bearer(GROUP)).reason, "no-version")
