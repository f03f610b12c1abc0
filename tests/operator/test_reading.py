"""Tests of what the operator's door tells of projects, releases, images, files and rollouts, and of itself."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import inspect
from ota_server.firmware import folder
from ota_server.fleet.decide import STEPS
from ota_server.fleet.decision import Send
from ota_server.operator.schemas import schema_of
from tests.images import bootloader, damaged, esp32_image, esp8266_image
from tests.operator.library import LAMPS, Library
from tests.web.memory import NOW

FILES = {
    "lamp-1.0.0.bin": esp8266_image(seed=1),
    "lamp-1.1.0.bin": esp8266_image(seed=2),
    "lamp-1.1.0.fs.bin": b"files",
    "beta/lamp-1.2.0.bin": esp8266_image(seed=3),
    "beta/lamp-1.1.0.bin": esp8266_image(seed=4),
    "fan-2.0.0.esp32c3.bin": esp32_image("esp32c3"),
    "fan-1.10.0.esp32c3.bin": esp32_image("esp32c3", seed=2),
    "fan-1.9.0.esp32c3.bin": esp32_image("esp32c3", seed=3),
}


class ProjectTests(SynchronousTestCase):
    """Projects and their releases."""

    def test_projects(self) -> None:
        """Each project is told with its channels, stable first."""
        library = Library(self, FILES)
        library.check(1)
        library.check(2, channel="beta")
        page = library.call("list_projects")
        self.assertEqual([each["name"] for each in page["items"]], ["fan", "lamp"])
        stable, beta = page["items"][1]["channels"]
        self.assertEqual(
            (stable["channel"], stable["newest"], stable["releases"], stable["images"]), ("stable", "1.1.0", 2, 3)
        )
        self.assertEqual(stable["size"], sum(len(FILES[f"lamp-{each}.bin"]) for each in ("1.0.0", "1.1.0", "1.1.0.fs")))
        self.assertEqual((beta["channel"], beta["newest"], beta["fleet"], stable["fleet"]), ("beta", "1.2.0", 1, 1))

    def test_some_projects(self) -> None:
        """They can be sought, and come in pages."""
        library = Library(self, FILES)
        for query, names in (
            ({"q": "AM"}, ["lamp"]),
            ({"q": "x"}, []),
            ({"channel": "beta"}, ["lamp"]),
            ({"channel": "nightly"}, []),
            ({"sort": "-name"}, ["lamp", "fan"]),
            ({"limit": "1"}, ["fan", "lamp"]),
        ):
            with self.subTest(query):
                self.assertEqual([each["name"] for each in library.pages("list_projects", **query)], names)

    def test_one_project(self) -> None:
        """One project tells the settings that hold, and where each was set."""
        library = Library(
            self,
            FILES,
            'hold = true\n[projects.lamp]\nstages = ["1", "10%"]\nsoak = "2h"\nminimum = "0.9"\n'
            'window = ["02:00-05:00 Europe/Berlin"]\nhalt = { failures = 3, share = "20%" }\n',
        )
        settings = library.call("get_project", "lamp")["settings"]
        project = "[projects.lamp]"
        self.assertEqual(settings["hold"], {"value": True, "origin": {"table": "top", "line": 1}})
        self.assertEqual(settings["stages"], {"value": ["1", "10%"], "origin": {"table": project, "line": 3}})
        self.assertEqual(settings["soak"], {"value": 7200.0, "origin": {"table": project, "line": 4}})
        self.assertEqual(settings["minimum"], {"value": "0.9.0", "origin": {"table": project, "line": 5}})
        self.assertEqual(settings["window"]["value"], ["02:00-05:00 Europe/Berlin"])
        self.assertEqual(settings["halt"]["value"], {"failures": 3, "share": 0.2})
        self.assertEqual(settings["rollback"], {"value": False, "origin": None})
        self.assertNotIn("token", settings)

    def test_unknown(self) -> None:
        """What isn't there is told with what may be meant."""
        library = Library(self, FILES)
        problem = library.call("get_project", "lamb", status=404)
        self.assertEqual((problem["type"], problem["detail"]), ("/problems/unknown-project", "did you mean lamp?"))
        library.call("list_releases", "lamb", status=404)
        problem = library.call("get_release", "lamp", "1.2.0", status=404)
        self.assertEqual((problem["type"], problem["detail"]), ("/problems/unknown-release", "it is in channel beta"))
        library.call("get_release", "lamp", "1.1.0", status=404, channel="nightly")
        library.call("get_release", "lamp", "v1", status=400)
        library.call("get_release", "..", "1.0.0", status=400)

    def test_releases(self) -> None:
        """Releases are sorted by precedence, those of all channels together."""
        library = Library(self, FILES)
        library.bounce(1, 2)
        library.pass_time()
        found = library.pages("list_releases", "lamp", limit=2)
        self.assertEqual(
            [(each["channel"], each["version"], each["newest"], each["rollout"]) for each in found],
            [
                ("beta", "1.2.0", True, None),
                ("stable", "1.1.0", True, "halted"),
                ("beta", "1.1.0", False, None),
                ("stable", "1.0.0", False, None),
            ],
        )
        self.assertEqual([each["file"] for each in found[1]["images"]], ["lamp-1.1.0.fs.bin", "lamp-1.1.0.bin"])
        found = library.pages("list_releases", "fan", sort="version")
        self.assertEqual([each["version"] for each in found], ["1.9.0", "1.10.0", "2.0.0"])
        found = library.pages("list_releases", "lamp", channel="beta", sort="channel")
        self.assertEqual([each["version"] for each in found], ["1.1.0", "1.2.0"])

    def test_before_the_folder_is_read(self) -> None:
        """Until there is a catalog the answer is 503, and the status says why."""
        library = Library(self, FILES)
        library.watcher.catalog = None
        self.assertEqual(library.call("list_projects", status=503)["type"], "/problems/starting")
        self.assertFalse(library.call("get_status")["ready"])


class ImageTests(SynchronousTestCase):
    """Images, as a release has them."""

    def test_as_inspect_says(self) -> None:
        """Facts, name and reason are those of `ota-server inspect --json`."""
        library = Library(self, FILES)
        for name, version, file in (("lamp", "1.0.0", "lamp-1.0.0.bin"), ("fan", "2.0.0", "fan-2.0.0.esp32c3.bin")):
            out = StringIO()
            with redirect_stdout(out):
                self.assertEqual(inspect(["--json", str(library.folder / file)]), 0)
            (said,) = json.loads(out.getvalue())
            (image,) = library.call("get_release", name, version)["images"]
            for key in ("offered", "reason", "name", "signers", "facts"):
                self.assertEqual(image[key], said[key], key)
            self.assertEqual((image["file"], image["address"], image["size"]), (file, f"/{file}", len(FILES[file])))

    def test_findings(self) -> None:
        """What is odd about an image beside the others is told with it; what blocks it is its reason."""
        library = Library(
            self,
            {**FILES, "lamp-1.3.0.bin": FILES["lamp-1.0.0.bin"], "fan-3.0.0.bin": bootloader()},
        )
        (image,) = library.call("get_release", "lamp", "1.3.0")["images"]
        self.assertEqual((image["offered"], [each["word"] for each in image["findings"]]), (True, ["same-bytes"]))
        (image,) = library.call("get_release", "fan", "3.0.0")["images"]
        self.assertEqual((image["offered"], image["findings"]), (False, []))
        self.assertIn("boot loader", image["reason"])

    def test_in_a_channel(self) -> None:
        """An image of a channel has its address there."""
        library = Library(self, FILES)
        (image,) = library.call("get_release", "lamp", "1.2.0", channel="beta")["images"]
        self.assertEqual((image["channel"], image["address"]), ("beta", "/beta/lamp-1.2.0.bin"))

    def test_schema(self) -> None:
        """What no schema can be made of is an error, and nothing silent."""
        self.assertRaises(TypeError, schema_of, object)


class FileTests(SynchronousTestCase):
    """Files that aren't offered."""

    def test_files(self) -> None:
        """Bad names, damaged files and boot loaders are told with their reasons."""
        library = Library(
            self,
            {
                **FILES,
                "firmware.bin": b"x",
                "fan-2.1.0.bin": damaged(FILES["fan-2.0.0.esp32c3.bin"], -1),
                "fan-3.0.0.bin": bootloader(),
                "beta/lamp-1.3-rc.bin": b"x",
                "lamp-1.3.0.bin": FILES["lamp-1.0.0.bin"],
            },
        )
        found = library.pages("list_files", limit=2)
        self.assertEqual(
            [(each["file"], each["word"]) for each in found],
            [
                ("beta/lamp-1.3-rc.bin", "not-served"),
                ("fan-2.1.0.bin", "not-served"),
                ("fan-3.0.0.bin", "not-for-ota"),
                ("firmware.bin", "not-served"),
            ],
        )
        self.assertIn("has no version", found[3]["reason"])
        served = [each["file"] for each in library.pages("list_files", served=True) if each["word"] == "same-bytes"]
        self.assertEqual(served, ["lamp-1.3.0.bin"])
        self.assertEqual([each["file"] for each in library.pages("list_files", q="BETA")], ["beta/lamp-1.3-rc.bin"])
        self.assertEqual([each["file"] for each in library.pages("list_files", word="not-for-ota")], ["fan-3.0.0.bin"])
        counts = library.call("get_status")["counts"]
        self.assertEqual((counts["projects"], counts["channels"], counts["not_served"]), (2, 2, 3))

    def test_changing(self) -> None:
        """A file that may still be written is told so, until it has settled."""
        library = Library(self, FILES)
        for name in ("SETTLE_TIME", "OPAQUE_SETTLE_TIME"):
            self.patch(folder, name, 2.0)
        (library.folder / "lamp-1.3.0.bin").write_bytes(b"n")
        library.watcher.hint()
        library.pass_time(1)
        (found,) = library.pages("list_files")
        self.assertEqual((found["file"], found["word"]), ("lamp-1.3.0.bin", "changing"))
        library.pass_time(20)
        self.assertEqual(library.pages("list_files"), [])

    def test_long_names(self) -> None:
        """Names as long as a disk takes them, and that are no ASCII, are paged as others are."""
        names = [f"ä{number}{'ü' * 124}" for number in range(3)]
        library = Library(self, {f"b{'e' * 254}/{name}": b"x" for name in names})
        self.assertEqual(len(library.pages("list_files", limit=1)), 3)

    def test_name_that_is_no_utf8(self) -> None:
        """The name of a file may be any bytes; the answer is UTF-8 all the same."""
        library = Library(self, FILES)
        with open(bytes(library.folder) + b"/l\xe4mp.bin", "wb"):
            pass
        library.watcher.hint()
        library.pass_time(20)
        (found,) = library.pages("list_files")
        self.assertEqual(found["file"], "l?mp.bin")


class RolloutTests(SynchronousTestCase):
    """How rollouts stand."""

    def test_stage(self) -> None:
        """A rollout tells its stage, its seats and its counts."""
        library = Library(self, LAMPS, 'stages = ["1", "100%"]')
        for number in range(3):
            library.update(number)
        library.pass_time()
        rollout = library.call("get_rollout", "lamp", "1.1.0")
        stage = rollout["stage"]
        self.assertEqual(
            (stage["number"], stage["of"], stage["text"], stage["seats"], stage["taken"]), (1, 2, "1", 1, 1)
        )
        self.assertEqual((rollout["state"], rollout["fleet"], rollout["admitted"]), ("running", 3, 1))
        self.assertEqual({key: value for key, value in rollout["outcomes"].items() if value}, {"downloaded": 1})
        self.assertEqual(rollout["started_at"], "2026-11-23T12:00:00Z")

    def test_halted(self) -> None:
        """A halted one tells why."""
        library = Library(self)
        library.bounce(1, 2)
        library.pass_time()
        rollout = library.call("get_rollout", "lamp", "1.1.0")
        self.assertEqual((rollout["state"], rollout["failures"], rollout["stage"]["of"]), ("halted", 2, 1))
        self.assertIn("2 of the 2 devices", rollout["why"])
        self.assertEqual(library.call("get_status")["counts"]["rollouts"], {"running": 0, "halted": 1, "complete": 0})

    def test_list(self) -> None:
        """Rollouts are found by project, channel and state."""
        library = Library(self, {**FILES, "fan-2.0.0.bin": b"fan"}, 'stages = ["1", "100%"]')
        library.pass_time()
        found = library.pages("list_rollouts", sort="project", limit=1)
        names = [(each["project"], each["channel"], each["version"]) for each in found]
        self.assertEqual(names, [("fan", "stable", "2.0.0"), ("lamp", "beta", "1.2.0"), ("lamp", "stable", "1.1.0")])
        queries: tuple[tuple[dict[str, Any], int], ...] = (
            ({"project": "lamp"}, 2),
            ({"channel": "stable"}, 2),
            ({"state": "running"}, 3),
            ({"state": "halted"}, 0),
            ({}, 3),
        )
        for query, count in queries:
            with self.subTest(query):
                self.assertEqual(len(library.pages("list_rollouts", **query)), count)
                self.assertEqual(library.call("list_rollouts", **query, limit=1)["total"], count)

    def test_not_begun(self) -> None:
        """A release that nobody was offered yet is told from one that isn't there."""
        library = Library(self)
        problem = library.call("get_rollout", "lamp", "1.0.0", status=404)
        self.assertEqual(problem["type"], "/problems/no-rollout")
        problem = library.call("get_rollout", "lamp", "9.0.0", status=404)
        self.assertEqual(problem["type"], "/problems/unknown-release")


class ExplainTests(SynchronousTestCase):
    """What a device would be answered."""

    def test_same_as_the_door(self) -> None:
        """The reason is the one that the door gives, and asking changes nothing."""
        for policy in ("", "hold = true", 'minimum = "1.0.1"', 'window = "00:00-00:01"', 'stages = ["1", "100%"]'):
            with self.subTest(policy):
                library = Library(self, policy=policy)
                given = [library.check(number) for number in (1, 2)]
                library.pass_time()
                before = library.fleet.outbox.unwritten
                for number, reason in enumerate(given, 1):
                    told = library.call("explain", device=f"5c-cf-7f-00-00-{number:02x}")
                    self.assertEqual((told["reason"], told["known"], told["policy_trouble"]), (reason, True, None))
                    self.assertEqual([step["decided"] for step in told["steps"]].count(True), 1)
                    self.assertLessEqual(len(told["steps"]), len(STEPS))
                self.assertEqual(library.fleet.outbox.unwritten, before)

    def test_what_if(self) -> None:
        """What isn't known can be told: a device that never was, another chip, less room."""
        library = Library(self, FILES, '[devices."5C:CF:7F:00:00:01"]\nname = "kitchen"\n')
        library.update(1)
        library.pass_time()
        ask = lambda **query: library.call("explain", **query)["reason"]  # noqa: E731
        self.assertEqual(ask(device="kitchen"), "newer")
        self.assertEqual(ask(device="kitchen", version="1.1"), "up-to-date")
        self.assertEqual(ask(device="kitchen", free_space=10), "no-space")
        self.assertEqual(ask(device="kitchen", project="fan"), "wrong-chip")
        self.assertEqual(ask(project="fan", version="1.0", chip="ESP32-C3"), "newer")
        self.assertEqual(ask(device="5CCF7F0000FF", project="lamp", version="1.0"), "newer")
        self.assertEqual(ask(project="lamp", mode="version"), "version-asked")
        told = library.call("explain", device="kitchen")
        self.assertEqual((told["name"], told["device"]), ("kitchen", "5C:CF:7F:00:00:01"))
        self.assertEqual([each["outcome"] for each in told["attempts"]], ["downloaded"])

    def test_turns(self) -> None:
        """How many download now is known, where it is the running server that is asked."""
        library = Library(self, policy="max-downloads = 1\n")
        decision = library.house.keeper.answer(library.check_in(1), library.house.catalog, "192.0.2.1")
        assert isinstance(decision, Send)
        assert library.keeper is not None
        follower = library.keeper.watch(library.check_in(1), library.house.catalog, "192.0.2.1", lambda: None)
        follower.begun(decision.image)
        self.assertEqual(library.check(2), "busy")
        library.pass_time()
        told = library.call("explain", device="5C:CF:7F:00:00:02")
        self.assertEqual(told["reason"], "busy")
        self.assertRegex(told["steps"][-1]["text"], "1 may download at once .* 1 do now, 1 of them .*, and 1 wait")

    def test_nothing_to_explain(self) -> None:
        """What can't be explained is a problem."""
        library = Library(self)
        queries: tuple[tuple[dict[str, Any], int, str], ...] = (
            ({}, 400, "nothing-to-explain"),
            ({"device": "kitchen"}, 404, "unknown-device"),
            ({"device": "5CCF7F0000FF"}, 404, "unknown-device"),
            ({"device": "5C:CF:7F:00:00:1"}, 400, "bad-device"),
            ({"project": "lamp", "mode": "all"}, 400, "bad-parameter"),
            ({"project": "lamp", "free_space": "-1"}, 400, "bad-parameter"),
        )
        for query, status, kind in queries:
            with self.subTest(query):
                problem = library.call("explain", status=status, **query)
                self.assertEqual(problem["type"], f"/problems/{kind}")


class StatusTests(SynchronousTestCase):
    """How the server is."""

    def test_well(self) -> None:
        """All is told, and no trouble."""
        library = Library(self, FILES)
        library.check(1)
        library.pass_time(2)
        told = library.call("get_status")
        self.assertTrue(told["ready"])
        self.assertEqual(
            (told["uptime"], told["started_at"], told["doors"]), (2.0, "2026-11-23T12:00:00Z", ["tcp:8000"])
        )
        self.assertEqual([told[each]["trouble"] for each in ("folder", "policy", "ledger")], [None] * 3)
        self.assertEqual(told["counts"]["devices"], 1)
        self.assertEqual((told["counts"]["releases"], told["counts"]["images"]), (7, 8))
        self.assertEqual(NOW, int(library.house.started_at))

    def test_policy_trouble(self) -> None:
        """What is wrong with the policy is told, with the line; the one before holds."""
        library = Library(self)
        (library.folder / "ota.toml").write_text("hold = 3\n")
        library.pass_time(5)
        self.assertIn("line 1", library.call("get_status")["policy"]["trouble"])
        self.assertIn("line 1", library.call("explain", project="lamp")["policy_trouble"])

    def test_without_a_memory(self) -> None:
        """A server that remembers nothing serves projects, and says of the rest that there is none."""
        library = Library(self, FILES, remembers=False)
        self.assertTrue(library.call("get_status")["ready"])
        self.assertFalse(library.call("get_status")["ledger"]["kept"])
        self.assertIsNone(library.call("get_project", "lamp")["channels"][0]["fleet"])
        self.assertEqual(library.call("get_release", "lamp", "1.1.0")["rollout"], None)
        told = library.call("explain", project="lamp", version="1.0.0", device="5CCF7F0000FF")
        self.assertEqual((told["reason"], told["trouble"]), ("newer", "the server keeps no ledger"))
        for name, in_path in (
            ("list_devices", ()),
            ("get_device", ("5C:CF:7F:00:00:01",)),
            ("list_attempts", ("5C:CF:7F:00:00:01",)),
            ("list_device_events", ("5C:CF:7F:00:00:01",)),
            ("list_rollouts", ()),
            ("get_rollout", ("lamp", "1.0.0")),
            ("list_events", ()),
            ("stream_events", ()),
        ):
            with self.subTest(name):
                self.assertEqual(library.call(name, *in_path, status=409)["type"], "/problems/no-ledger")
