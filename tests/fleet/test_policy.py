"""Tests of reading the policy, and of what holds for whom."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.policy import (
    ACCESS_KEYS,
    DEFAULT_POLICY,
    DEVICE_KEYS,
    GROUP_KEYS,
    PROJECT_KEYS,
    TOP,
    Policy,
    PolicyError,
    read_policy,
)
from ota_server.fleet.rules import DEFAULT_RULES, HaltRule, Origin, Rules, Stage
from ota_server.fleet.window import WeeklyWindow

ROOT = Path(__file__).absolute().parent.parent.parent
MAC = "5C:CF:7F:00:11:22"
OTHER = "24:6F:28:00:00:01"

EVERYTHING = (ROOT / "examples" / "ota.toml").read_text()


def read(text: str) -> Policy:
    """Read the text of a policy file."""
    return read_policy(text, "ota.toml")


class ValueTests(SynchronousTestCase):
    """What may stand behind each key."""

    def assert_read(self, key: str, attribute: str, table: dict[str, Any]) -> None:
        """Check what comes of the values of a key, at the top and for a project."""
        for value, expected in table.items():
            with self.subTest(f"{key} = {value}"):
                line = f"{key} = {value}\n"
                self.assertEqual(read(line).rules_for("lamp", None), Rules(**{attribute: expected}))
                rules = read(f"[projects.lamp]\n{line}").rules_for("lamp", None)
                self.assertEqual(rules, Rules(**{attribute: expected}))
                self.assertEqual(rules.origins, {key: Origin("[projects.lamp]", 2)})

    def test_stages(self) -> None:
        """Stages are counts and shares, as texts or plain numbers, each kind in ascending order."""
        self.assert_read(
            "stages",
            "stages",
            {
                "[]": (),
                '["1"]': (Stage("1", count=1),),
                "[1, 20]": (Stage("1", count=1), Stage("20", count=20)),
                '["1", "1%", "10%", "100%"]': (
                    Stage("1", count=1),
                    Stage("1%", share=0.01),
                    Stage("10%", share=0.1),
                    Stage("100%", share=1.0),
                ),
                '["0.5%", "5 %", "100 %"]': (
                    Stage("0.5%", share=0.005),
                    Stage("5 %", share=0.05),
                    Stage("100 %", share=1.0),
                ),
                '["1%", 50, "5%"]': (Stage("1%", share=0.01), Stage("50", count=50), Stage("5%", share=0.05)),
            },
        )

    def test_soak(self) -> None:
        """A time is a number and its unit; it becomes seconds."""
        self.assert_read(
            "soak",
            "soak",
            {'"90s"': 90.0, '"30m"': 1800.0, '"2h"': 7200.0, '"1d"': 86400.0, '"1.5h"': 5400.0, '"0s"': 0.0,
             '" 5 m "': 300.0, '"366d"': 366 * 86400.0},
        )  # fmt: skip

    def test_confirm(self) -> None:
        """A share is a text with a per cent sign, or a number with a point."""
        self.assert_read("confirm", "confirm", {'"80%"': 0.8, "0.8": 0.8, '"100%"': 1.0, "1.0": 1.0, '"0.5 %"': 0.005})

    def test_halt(self) -> None:
        """Each part of the halt may be left out, and has its default then."""
        self.assert_read(
            "halt",
            "halt",
            {
                '{ failures = 3, share = "25%" }': HaltRule(3, 0.25),
                "{ failures = 3 }": HaltRule(3, 0.1),
                "{ share = 0.0 }": HaltRule(2, 0.0),
                "{}": HaltRule(),
            },
        )

    def test_silent_after(self) -> None:
        """A multiple is a number, with a point or without."""
        self.assert_read("silent-after", "silent_after", {"1": 1.0, "3": 3.0, "2.5": 2.5})

    def test_window(self) -> None:
        """There may be one window, several, or none."""
        days = frozenset(range(7))
        berlin = WeeklyWindow("02:00-05:00 Europe/Berlin", days, 120, 300, ZoneInfo("Europe/Berlin"))
        sunday = WeeklyWindow("Sun 12:00-14:00", frozenset({6}), 720, 840, ZoneInfo("UTC"))
        self.assert_read(
            "window",
            "window",
            {
                '"02:00-05:00 Europe/Berlin"': (berlin,),
                '["02:00-05:00 Europe/Berlin", "Sun 12:00-14:00"]': (berlin, sunday),
                "[]": (),
            },
        )

    def test_versions(self) -> None:
        """Versions are as in a file's name, a list of them in any order."""
        self.assert_read("minimum", "minimum", {'"1.4.0"': Version(1, 4, 0), '"1.4"': Version(1, 4, 0)})
        self.assert_read(
            "stepping-stones",
            "stepping_stones",
            {
                '["2.0.0"]': (Version(2, 0, 0),),
                '["1.10", "2.0", "1.9.1", "2.0.0"]': (Version(1, 9, 1), Version(1, 10, 0), Version(2, 0, 0)),
                "[]": (),
            },
        )

    def test_flags_and_names(self) -> None:
        """Flags are true or false, a channel is a name."""
        self.assert_read("rollback", "rollback", {"true": True, "false": False})
        self.assert_read("hold", "hold", {"true": True, "false": False})
        self.assert_read("channel", "channel", {'"beta"': "beta", '"stable"': "stable"})

    def test_downloads(self) -> None:
        """The bound at the top is for the whole server, that of a project for this project."""
        policy = read("max-downloads = 50\n[projects.lamp]\nmax-downloads = 5\n")
        self.assertEqual(policy.max_downloads, 50)
        lamp, door = policy.rules_for("lamp", None), policy.rules_for("door", None)
        self.assertEqual((lamp.max_downloads, door.max_downloads), (5, None))
        self.assertEqual(lamp.origins, {"max-downloads": Origin("[projects.lamp]", 3)})
        self.assertEqual(door.origins, {"max-downloads": Origin(TOP, 1)})
        self.assertIsNone(read("[projects.lamp]\nmax-downloads = 5\n").max_downloads)


class ErrorTests(SynchronousTestCase):
    """What is refused, and how that is told."""

    def assert_refused(self, text: str, line: int | None, key: str, *parts: str) -> None:
        """Check that a text is refused, where, and that the reason has some parts."""
        with self.subTest(text[:60]):
            error = self.assertRaises(PolicyError, read, text)
            self.assertEqual((error.file, error.line, error.key), ("ota.toml", line, key))
            for part in parts:
                self.assertIn(part, error.reason)
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 400)
            where = f"ota.toml, line {line}" if line else "ota.toml"
            self.assertEqual(str(error), f"{where}{f', {key}' if key else ''}: {error.reason}")

    def test_no_toml(self) -> None:
        """What isn't TOML is refused with its line, and with what is likely to be meant."""
        for text, line, part in (
            ("hold = true\nminimum = 1.2.3\n", 2, "column 14: expected newline"),
            ("hold = true\nminimum = 1.2.3\n", 2, "in quotes"),
            ("\n\nsoak = 30m\n", 3, "in quotes"),
            ("channel = beta\n", 1, "no TOML at column 11: invalid value; texts, versions"),
            ("hold = \n", 1, "invalid value"),
            ("hold = true\nhold = false\n", 2, "each key and table is written once"),
            ("hold = true\nhold = false", 2, "each key and table is written once"),
            ("[projects.a]\n[projects.a]\n", 2, "each key and table is written once"),
            ('channel = "beta\n', 1, "illegal character"),
            ("[projects.lamp\nhold = true\n", 1, "expected ']'"),
            ("hold = true\n\n\n\nstages = [1,\n\n", 5, "invalid value"),
            ("hold = tr\0ue", 1, "no TOML"),
            ("\udcff = 1", 1, "no TOML"),
        ):  # fmt: skip
            self.assert_refused(text, line, "", part)

    def test_no_bounds(self) -> None:
        """Depth and digits without end are refused, too."""
        for depth in (1000, 100_000):
            self.assert_refused(f"stages = {'[' * depth}{']' * depth}", None, "", "too deep")
        self.assert_refused(f"hold = {'9' * 5000}", None, "", "too many digits")
        self.assert_refused(f"hold = 0x{'9' * 50_000}", 1, "hold", "a huge number is neither true nor false")
        self.assert_refused(f'channel = "{"../" * 50_000}"', 1, "channel", "can't be a name")
        self.assert_refused(f'"{"x" * 50_000}" = 1', 1, f'"{"x" * 39}…"', "unknown key")

    def test_unknown_keys(self) -> None:
        """An unknown key is refused anywhere, with the one that is nearest, its right place, or the list."""
        for text, line, key, part in (
            ("stage = []", 1, "stage", "unknown key; did you mean stages?"),
            ("\nsilent_after = 3", 2, "silent_after", "did you mean silent-after?"),
            ("Hold = true", 1, "Hold", "did you mean hold?"),
            ("xyz = 1", 1, "xyz", "known are stages, soak, confirm"),
            ('pin = "1.2.3"', 1, "pin", 'it belongs in [devices."ID"] or in [groups.NAME]'),
            ("[project.lamp]\nhold = true", 1, "project", "unknown table; did you mean projects?"),
            ("[xyz]", 1, "xyz", "known are projects, devices, groups"),
            ("[projects.lamp]\n\nhodl = true", 3, "[projects.lamp] hodl", "did you mean hold?"),
            ("[projects.lamp.devices.x]", 1, "[projects.lamp] devices", 'write [devices."ID"]'),
            ("[projects.lamp]\nmembers = []", 2, "[projects.lamp] members", "it belongs in [groups.NAME]"),
            ("[devices.1]\nstages = []", 2, "[devices.1] stages", "it belongs at the top or in [projects.NAME]"),
            ("[devices.1]\nmembers = []", 2, "[devices.1] members", "it belongs in [groups.NAME]"),
            ("[devices.1]\nchanel = 1", 2, "[devices.1] chanel", "did you mean channel?"),
            ('[groups.a]\nmembers = []\nname = "x"', 3, "[groups.a] name", 'it belongs in [devices."ID"]'),
            ("[devices.1.pin]", 1, "[devices.1] pin", "a table is no version"),
            ("halt = { failure = 1 }", 1, "halt.failure", "halt has the keys failures and share"),
            ("[projects.lamp.halt]\nfailures = 1\nx = 1", 3, "[projects.lamp] halt.x", "unknown key"),
            ('"a\\nb" = 1', 1, "'a\\nb'", "unknown key"),
            ('[projects."a.b"]\n"\u2028" = 1', 2, "[projects.\"a.b\"] '\\u2028'", "unknown key"),
        ):
            self.assert_refused(text, line, key, part)

    def test_values(self) -> None:
        """A value of the wrong type or out of bounds is refused with what to write."""
        for setting, part in (
            ('stages = "1"', '"1" is no list; write a list of stages, such as ["1", "1%", "10%", "100%"]'),
            ("stages = [0.5]", '0.5 is no stage; write a count as in "10", or a share as in "10%"'),
            ("stages = [true]", "true is no stage"),
            ("stages = [[]]", "a list is no stage"),
            ('stages = ["one"]', '"one" is no stage'),
            ('stages = ["-1"]', '"-1" is no stage'),
            ('stages = ["\u0661"]', "is no stage"),
            ('stages = ["0"]', "0 is no number of devices"),
            ("stages = [0]", "0 is no number of devices"),
            ("stages = [1_000_000_001]", "from 1 to 1,000,000,000"),
            ('stages = ["0%"]', '"0%" is nobody; leave it out'),
            ('stages = ["101%"]', 'from "0%" to "100%"'),
            ('stages = ["1", "10%", "5%"]', '"5%" isn\'t more than a stage before; put them in ascending order'),
            ('stages = ["10", "1%", "10"]', "ascending"),
            ("stages = [5, 4]", "ascending"),
            ('stages = ["100%", "100%"]', '"100%" comes after "100%", which is everybody'),
            ('stages = ["100%", 5000]', '"5000" comes after "100%"'),
            ("soak = 30", '30 has no unit; write it in quotes and with s, m, h or d, as in "30m"'),
            ("soak = 1.5", "has no unit"),
            ('soak = "30"', '"30" has no unit; write "30m" for minutes, or s, h or d'),
            ('soak = "30 minutes"', 'is no time; write a number and s, m, h or d, as in "30m"'),
            ('soak = "-5m"', "is no time"),
            ('soak = "1h30m"', "is no time"),
            ("soak = 07:30:00", "the time 07:30:00 is no time; write"),
            ("soak = true", "true is no time"),
            ('soak = "367d"', "longer than a year"),
            ("confirm = 80", '80 is no share; write "80%"'),
            ("confirm = 1", '1 is no share; write "1%"'),
            ("confirm = true", "true is no share"),
            ("confirm = 1.1", "from 0.0 to 1.0"),
            ("confirm = -0.1", "from 0.0 to 1.0"),
            ("confirm = nan", "nan is no share"),
            ("confirm = inf", "inf is no share"),
            ('confirm = "80"', '"80" is no share'),
            ('confirm = "0%"', "would confirm a stage that nobody confirms"),
            ("halt = false", 'can\'t be turned off; make it lenient: halt = { failures = 100, share = "50%" }'),
            ("halt = true", 'true can\'t be; write halt = { failures = 2, share = "10%" }'),
            ("halt = 2", "2 can't be; write halt = "),
            ("silent-after = 0.9", "1 or more"),
            ("silent-after = nan", "1 or more"),
            ("silent-after = inf", "1 or more"),
            ('silent-after = "3"', '"3" is no number; write one without quotes'),
            ("silent-after = true", "true is no number"),
            ("window = 2", "2 is no list; write a list of windows"),
            ('window = "2-5"', '"2-5" is no window; write it as in "Mon-Fri 22:00-04:00 Europe/Berlin"'),
            ('window = "02:00-05:00 Europe/Berln"', "did you mean Europe/Berlin?"),
            ("window = [2]", "2 is no window"),
            ('stepping-stones = "2.0.0"', '"2.0.0" is no list; write a list of versions, such as ["2.0.0"]'),
            ("stepping-stones = [2.0]", '2.0 is no version; write it in quotes: "2.0"'),
            ("minimum = 1.4", '1.4 is no version; write it in quotes: "1.4"'),
            ("minimum = 1", '1 is no version; write one as in "1.2.3"'),
            ('minimum = "v1.4"', '"v1.4" is no version; write one as in a file\'s name'),
            ('minimum = "1.2.3-rc.1"', "is no version"),
            ("minimum = 2026-11-23", "the time 2026-11-23 is no version"),
            ('rollback = "yes"', '"yes" is neither true nor false; write one of these, without quotes'),
            ("hold = 1", "1 is neither true nor false"),
            ("max-downloads = 0", "from 1 to 1,000,000,000"),
            ("max-downloads = true", "true is no number of downloads"),
            ("max-downloads = 1.5", "1.5 is no number of downloads"),
            ('channel = ""', "can't be a name"),
            ('channel = "../beta"', "can't be a name"),
            ('channel = "-"', "begin with none of . + -"),
            ("channel = 1", "1 can't be a name"),
        ):
            key = setting.partition(" ")[0]
            self.assert_refused(f"# first\n{setting}", 2, key, part)
            self.assert_refused(f"\n[projects.lamp]\n\n{setting}", 4, f"[projects.lamp] {key}", part)

    def test_parts_of_the_halt(self) -> None:
        """A wrong part of the halt is named."""
        for setting, key, part in (
            ("halt = { failures = 0 }", "halt.failures", "0 is no number of failures"),
            ('halt = { failures = "2" }', "halt.failures", '"2" is no number of failures; write one without quotes'),
            ("halt = { share = 10 }", "halt.share", '10 is no share; write "10%"'),
            ('halt = { share = "100%" }', "halt.share", 'more than "100%" never fail; to be lenient, write halt = '),
            ("halt.share = 1.0", "halt.share", "more than 1.0 never fail"),
        ):
            self.assert_refused(setting, 1, key, part)

    def test_line_of_an_item(self) -> None:
        """In a list of several lines the line of the wrong item is told."""
        self.assert_refused('stages = [\n  "1",\n  # "2",\n  "x",\n]', 4, "stages", '"x" is no stage')
        self.assert_refused('window = [\n"02:00-05:00",\n"2"]', 3, "window", '"2" is no window')
        self.assert_refused('stepping-stones = ["1.0",\n"1"]', 2, "stepping-stones", '"1" is no version')
        self.assert_refused('[groups.a]\nmembers = [\n"1",\n2]', 4, "[groups.a] members", "2 is no device")

    def test_tables(self) -> None:
        """What isn't a table where one has to be is refused, and so is a name that none can be."""
        for text, line, key, part in (
            ("devices = 3", 1, "[devices]", '3 can\'t be; write tables [devices."ID"]'),
            ("[[projects]]", 1, "[projects]", "a list can't be; write tables [projects.NAME]"),
            ("[devices]\nhold = true", 2, "[devices.hold]", 'true can\'t be; write a table [devices."ID"]'),
            ("projects.lamp = []", 1, "[projects.lamp]", "a list can't be; write a table [projects.NAME]"),
            ('[projects."a b"]', 1, '[projects."a b"]', '"a b" can\'t be a name'),
            ('[projects.""]', 1, '[projects.""]', "can't be a name"),
            ("[projects.-]", 1, "[projects.-]", "can't be a name"),
            ('[groups."a/b"]\nmembers = []', 1, '[groups."a/b"]', "can't be a name"),
            ('[devices.1]\nproject = "a b"', 2, "[devices.1] project", "can't be a name"),
        ):
            self.assert_refused(text, line, key, part)

    def test_device_ids(self) -> None:
        """What can only be meant for a MAC address has to be one; anything else has to be somebody's name."""
        for device in (
            *("5C:CF:7F:00:11", "5C:CF:7F:00:11:22:33", "5C:CF:7F:00:11:2", "5C:CF:7F:00:11:2G", "5C-CF-7F-00-11"),
            *("5C:CF:7F:00-11-22", "5CCF7F00112", "5CCF7F0011223", "5C:CF:7F-00:11:22", "O0:CF:7F:00:11:22"),
        ):
            self.assert_refused(f'[devices."{device}"]', 1, f"[devices.{_quoted(device)}]")
            self.assert_refused(f'\n[groups.a]\nmembers = ["{device}"]', 3, "[groups.a] members")
        for device, part in (
            ("kitchn", 'no device is named "kitchn"; did you mean "kitchen"?'),
            ("xyz", "write its MAC address, or name it in its own table"),
            ("", "no device is named"),
            ("1234567890123456", "no device is named"),
            ("-1", "no device is named"),
        ):
            named = f'[devices."{MAC}"]\nname = "kitchen"\n'
            self.assert_refused(f'{named}[devices."{device}"]', 3, f"[devices.{_quoted(device)}]", part)
            self.assert_refused(f'{named}[groups.a]\nmembers = ["{device}"]', 4, "[groups.a] members", part)

    def test_device_names(self) -> None:
        """A name is a short text, one device's only, and looks like no id."""
        for name, part in (
            ('""', "from 1 to 64 printable characters"),
            ('" "', "from 1 to 64 printable characters"),
            ('"a\\u0000"', "from 1 to 64 printable characters"),
            (f'"{"x" * 65}"', "from 1 to 64 printable characters"),
            ("7", "7 is no name; write a text in quotes"),
            ('"7"', "looks like an id of a device"),
            (f'"{OTHER}"', "looks like an id of a device"),
            ('"a:b:c:d:e:f"', "looks like an id of a device"),
            ('"kitchen"', f'"kitchen" is the name of {OTHER} (line 2) already'),
        ):
            text = f'[devices."{OTHER}"]\nname = "kitchen"\n[devices."{MAC}"]\nname = {name}\n'
            self.assert_refused(text, 4, f'[devices."{MAC}"] name', part)

    def test_one_device_in_two_tables(self) -> None:
        """A key that two tables set for the same device is refused, however they spell it."""
        named = f'[devices."{MAC}"]\nname = "kitchen"\nhold = true\n'
        for device in (MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), "kitchen"):
            key = f"[devices.{_quoted(device)}] hold"
            part = "is set for the same device in line 3; leave one of them out"
            self.assert_refused(f'{named}[devices."{device}"]\nhold = false\n', 5, key, part)
        text = f'[devices.kitchen]\nname = "cellar"\n{named}'
        self.assert_refused(text, 2, "[devices.kitchen] name", "is set for the same device in line 4")

    def test_groups(self) -> None:
        """A group has members, and groups agree about each, unless its own table says what holds."""
        self.assert_refused("[groups.a]\nhold = true", 1, "[groups.a]", 'has no members; write members = ["5C:')
        self.assert_refused("[groups.a]\nmembers = 1", 2, "[groups.a] members", "1 is no list; write a list of devices")
        first = f'[groups.a]\nmembers = ["1", "{MAC}"]\nhold = true\nchannel = "beta"\n'
        second = f'[groups.b]\nmembers = ["{MAC.lower()}"]\nhold = true\nchannel = "alpha"\n'
        self.assert_refused(
            first + second,
            8,
            "[groups.b] channel",
            f'contradicts [groups.a] (line 4), where {MAC} is a member, too; say what holds in [devices."{MAC}"]',
        )
        rules = read(f'{first}{second}[devices."{MAC}"]\nchannel = "stable"\n').rules_for("lamp", MAC)
        self.assertEqual((rules.hold, rules.channel), (True, "stable"))
        self.assertEqual(rules.origins["hold"], Origin("[groups.a]", 3))

    def test_downgrade_without_pin(self) -> None:
        """To go down there has to be a version to go down to, of the device or of its group."""
        part = 'needs a pin to go down to; write one, such as pin = "1.2.3"'
        self.assert_refused("[devices.1]\ndowngrade = true", 2, "[devices.1] downgrade", part)
        self.assert_refused('[groups.a]\nmembers = ["1"]\ndowngrade = true', 3, "[groups.a] downgrade", part)
        group = '[groups.a]\nmembers = ["1"]\n'
        for text in (
            "[devices.1]\ndowngrade = false",
            '[devices.1]\ndowngrade = true\npin = "1.0"',
            f'{group}downgrade = true\n[devices.1]\npin = "1.0"',
            f'{group}pin = "1.0"\n[devices.1]\ndowngrade = true',
            f"{group}downgrade = true\n[devices.1]\ndowngrade = false",
        ):
            with self.subTest(text):
                self.assertIsInstance(read(text), Policy)

    def test_file_with_an_odd_name(self) -> None:
        """The message stays on one line whatever the file is called."""
        error = self.assertRaises(PolicyError, read_policy, "x = 1", "a\nb/ota.toml")
        self.assertTrue(str(error).startswith("'a\\nb/ota.toml', line 1, x: unknown key"))


def _quoted(device: str) -> str:
    """Write a key as messages do."""
    return device if re.fullmatch("[A-Za-z0-9_-]+", device) else f'"{device}"'


class PrecedenceTests(SynchronousTestCase):
    """What holds for whom."""

    def test_nothing(self) -> None:
        """Without a file, and with an empty one, the defaults hold for everybody."""
        for policy in (DEFAULT_POLICY, read(""), read("# nothing\n"), read("\ufeff# nothing\r\n")):
            for device in (None, MAC, "7"):
                self.assertEqual(policy.rules_for("lamp", device), DEFAULT_RULES)
                self.assertEqual(policy.rules_for("lamp", device).origins, {})
            self.assertEqual((policy.max_downloads, policy.names), (None, {}))
            self.assertEqual(policy, DEFAULT_POLICY)

    def test_most_specific_wins(self) -> None:
        """A device's own table comes before its group's, that before the project's, and that before the top."""
        text = (
            'channel = "top"\n[projects.lamp]\nchannel = "project"\n'
            f'[groups.a]\nmembers = ["{MAC}"]\nchannel = "group"\n[devices."{MAC}"]\nchannel = "device"\n'
        )
        for project, device, channel, own, origin in (
            ("lamp", MAC, "device", True, Origin(f'[devices."{MAC}"]', 8)),
            ("door", MAC, "device", True, Origin(f'[devices."{MAC}"]', 8)),
            ("lamp", OTHER, "project", False, Origin("[projects.lamp]", 3)),
            ("lamp", None, "project", False, Origin("[projects.lamp]", 3)),
            ("door", OTHER, "top", False, Origin(TOP, 1)),
        ):
            with self.subTest(f"{project} {device}"):
                rules = read(text).rules_for(project, device)
                self.assertEqual((rules.channel, rules.own_channel), (channel, own))
                self.assertEqual(rules.origins["channel"], origin)
        rules = read(text.rpartition("channel")[0]).rules_for("lamp", MAC)
        self.assertEqual((rules.channel, rules.own_channel), ("group", True))
        self.assertEqual(rules.origins["channel"], Origin("[groups.a]", 6))

    def test_keys_add_up(self) -> None:
        """Each key is looked for on its own, so that levels add up."""
        rules = read(
            f'soak = "1h"\n[projects.lamp]\nrollback = true\n[groups.a]\nmembers = ["kitchen"]\nhold = true\n'
            f'[devices."{MAC}"]\nname = "kitchen"\npin = "1.2"\n[devices.kitchen]\ndowngrade = true\n'
        ).rules_for("lamp", MAC)
        self.assertEqual(
            rules,
            Rules(soak=3600, rollback=True, hold=True, name="kitchen", pin=Version(1, 2, 0), downgrade=True),
        )
        self.assertEqual({key: origin.line for key, origin in rules.origins.items()},
                         {"soak": 1, "rollback": 3, "hold": 6, "name": 8, "pin": 9, "downgrade": 11})  # fmt: skip

    def test_halt_is_one_key(self) -> None:
        """A project's halt takes the place of that of the top, also where it leaves out a part."""
        policy = read("halt = { failures = 5, share = 0.5 }\n[projects.lamp.halt]\nfailures = 3\n")
        self.assertEqual(policy.rules_for("lamp", None).halt, HaltRule(3, 0.1))
        self.assertEqual(policy.rules_for("door", None).halt, HaltRule(5, 0.5))
        self.assertEqual(policy.rules_for("lamp", None).origins["halt"], Origin("[projects.lamp]", 2))

    def test_back_to_the_default(self) -> None:
        """A more specific table can take back what a less specific one set."""
        policy = read(
            'hold = true\nstages = ["1"]\nwindow = "02:00-05:00"\n'
            f'[projects.lamp]\nhold = false\nstages = []\nwindow = []\n[devices."{MAC}"]\nhold = false\n'
        )
        self.assertEqual(policy.rules_for("lamp", None), DEFAULT_RULES)
        self.assertFalse(policy.rules_for("door", MAC).hold)
        self.assertTrue(policy.rules_for("door", None).hold)

    def test_project_of_a_device(self) -> None:
        """Where a device is told another project, that project's rules hold, whatever it asks for."""
        policy = read(
            f'[projects.lamp]\nhold = true\n[projects.door]\nrollback = true\n[devices."{MAC}"]\nproject = "door"'
        )
        for project in ("lamp", "door", "other"):
            self.assertEqual(policy.rules_for(project, MAC), Rules(rollback=True, project="door"))
        self.assertEqual(policy.rules_for("lamp", OTHER), Rules(hold=True))
        unknown = read(f'hold = true\n[groups.a]\nmembers = ["{MAC}"]\nproject = "new"').rules_for("lamp", MAC)
        self.assertEqual(unknown, Rules(hold=True, project="new"))

    def test_spellings_of_devices(self) -> None:
        """A MAC address may be spelled in either case, with colons, dashes or nothing; a chip id is a number."""
        for text in (MAC, MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), "5ccf7F001122"):
            with self.subTest(text):
                self.assertTrue(read(f'[devices."{text}"]\nhold = true').rules_for("lamp", MAC).hold)
                self.assertTrue(read(f'[groups.a]\nmembers = ["{text}"]\nhold = true').rules_for("lamp", MAC).hold)
        self.assertTrue(read("[devices.15602487]\nhold = true").rules_for("lamp", "15602487").hold)

    def test_names(self) -> None:
        """Names of devices are found by their ids, and stand for them in tables and groups anywhere in the file."""
        policy = read(
            '[groups.a]\nmembers = ["Küche 1"]\nproject = "x"\n[devices."Küche 1"]\nhold = true\n'
            f'[devices."{MAC.lower()}"]\nname = "Küche 1"\n[devices.7]\nname = "door-of-the-old-bed"\n'
        )
        self.assertEqual(policy.names, {MAC: "Küche 1", "7": "door-of-the-old-bed"})
        rules = policy.rules_for("lamp", MAC)
        self.assertEqual(rules, Rules(name="Küche 1", hold=True, project="x"))
        self.assertEqual(rules.origins["hold"], Origin('[devices."Küche 1"]', 5))

    def test_same_rules_again(self) -> None:
        """The same question has the same answer, made once."""
        policy = read(f'[projects.lamp]\nhold = true\n[devices."{MAC}"]\nname = "kitchen"\n')
        for device in (MAC, OTHER, None):
            self.assertIs(policy.rules_for("lamp", device), policy.rules_for("lamp", device))

    def test_made_up_names_are_not_kept(self) -> None:
        """Requests with all kinds of projects and devices don't fill the memory."""
        policy = read(f'[projects.lamp]\nhold = true\n[devices."{MAC}"]\nname = "kitchen"\n[devices.7]\nhold = true\n')
        for number in range(1000):
            for device in (MAC, "7", str(number), None):
                policy.rules_for(f"made-up-{number}", device)
                policy.rules_for("lamp", device)
        self.assertEqual(policy._made.keys(), {MAC, "7"})

    def test_digest(self) -> None:
        """Each text has a digest of its own, which doesn't count when policies are compared."""
        self.assertEqual(read("hold=true"), read("hold = true # now"))
        self.assertNotEqual(read("hold=true").digest, read("hold = true # now").digest)
        self.assertEqual(DEFAULT_POLICY.digest, "")
        self.assertNotEqual(read("").digest, "")

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(["a", "b", "c"]) | st.none(), min_size=4, max_size=4))
    def test_most_specific_wins_whatever_is_set(self, channels: list[str | None]) -> None:
        """Whichever of the four levels set a key, the most specific of them wins, and its line is told."""
        headers = ("", "[projects.lamp]\n", '[groups.g]\nmembers = ["7"]\n', "[devices.7]\n")
        text = ""
        expected: tuple[str | None, int | None, bool] = (None, None, False)
        for header, channel in zip(headers, channels, strict=True):
            text += header
            if channel is not None:
                text += f'channel = "{channel}"\n'
                expected = (channel, text.count("\n"), header[:2] in ("[g", "[d"))
        rules = read(text).rules_for("lamp", "7")
        origin = rules.origins.get("channel")
        self.assertEqual((rules.channel, origin and origin.line, rules.own_channel), expected)

    @settings(deadline=None)
    @given(st.binary(min_size=6, max_size=6), st.lists(st.booleans(), min_size=12, max_size=12), st.sampled_from(":-|"))
    def test_any_spelling(self, mac: bytes, upper: list[bool], separator: str) -> None:
        """Any spelling of any MAC address is that device."""
        digits = [digit.upper() if up else digit for digit, up in zip(mac.hex(), upper, strict=True)]
        text = separator.strip("|").join("".join(digits[at : at + 2]) for at in range(0, 12, 2))
        rules = read(f'[devices."{text}"]\nhold = true').rules_for("lamp", mac.hex(":").upper())
        self.assertTrue(rules.hold)


_TOML_VALUES = st.sampled_from(
    ["true", "false", "0", "1", "-1", "80", "0.5", "nan", "-inf", "1e400", '""', '"1"', '"1%"', '"100%"', '"1.2.3"',
     '"30m"', '"x"', '"02:00-05:00"', "[]", "[[]]", "{}", "[1, 2]", '["1%", "100%"]', '["1.2.3"]', '["02:00-05:00"]',
     "{failures = 1}", "{a.b = 1}", "2026-11-23", "07:00:00", "2026-11-23T07:00:00Z", f'["{MAC}"]', '["kitchen"]',
     "9" * 100, '"\\u0000"', '"\\n"']
)  # fmt: skip
_TOML_KEYS = st.sampled_from(
    [*dict.fromkeys((*PROJECT_KEYS, *DEVICE_KEYS, *GROUP_KEYS)), "projects", "devices", "groups", "halt.share", "x",
     "devices.x", '"\\n"', f'devices."{MAC}"', "devices.kitchen.name"]
)  # fmt: skip
_TOML_HEADERS = st.sampled_from(
    ["", "[projects.lamp]", "[projects]", f'[devices."{MAC}"]', "[devices.7]", "[devices.kitchen]", "[groups.a]",
     "[groups.b]", "[[groups.c]]", "[projects.lamp.halt]", "[x]", '[devices."\\n"]']
)  # fmt: skip


class AnyTextTests(SynchronousTestCase):
    """Whatever the text is, it is a policy, or refused with PolicyError."""

    def check(self, text: str) -> None:
        """Check that a text is read or refused, and what is told of it."""
        try:
            policy = read(text)
        except PolicyError as error:
            self.assertTrue(str(error).isprintable(), str(error))
            if error.line is not None:
                self.assertIn(error.line, range(1, text.count("\n") + 2))
        else:
            self.assertEqual(policy, read(text))
            for device in (None, MAC, "7"):
                rules = policy.rules_for("lamp", device)
                fields = attrs.fields_dict(Rules)
                for key, origin in rules.origins.items():
                    self.assertIn(key.replace("-", "_"), fields)
                    self.assertIn(origin.line, range(1, text.count("\n") + 2))

    @settings(deadline=None, max_examples=300)
    @given(st.text(max_size=100) | st.text("[]{}=.,'\"#\\\n abcdehlost1%:", max_size=100))
    @example("a = 1\r\rb = 2")
    @example("a.a.a.a.a.a.a.a.a.a.a.a = 1")
    def test_any(self, text: str) -> None:
        """Any text at all."""
        self.check(text)

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_nearly_right(self, data: st.DataObject) -> None:
        """A right file, of which parts are left out, written twice, or replaced by others."""
        text = EVERYTHING
        for _ in range(data.draw(st.integers(1, 4))):
            first, last = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
            last = min(last, first + data.draw(st.integers(0, 40)))
            piece = data.draw(st.sampled_from(["", text[first:last] * 2, "\n"]) | _TOML_VALUES | st.text(max_size=3))
            text = text[:first] + piece + text[last:]
        self.check(text)

    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.tuples(_TOML_HEADERS, st.lists(st.tuples(_TOML_KEYS, _TOML_VALUES), max_size=3)), max_size=4))
    def test_made_of_right_parts(self, tables: list[tuple[str, list[tuple[str, str]]]]) -> None:
        """Keys and values that there are, in places where they don't belong."""
        lines = [f"{header}\n" + "".join(f"{key} = {value}\n" for key, value in pairs) for header, pairs in tables]
        self.check("".join(lines))


class DocumentationTests(SynchronousTestCase):
    """The example and the page about the policy say what the program does."""

    def test_example(self) -> None:
        """The example can be used as it is, and shows every key."""
        policy = read(EVERYTHING)
        self.assertEqual(policy.names, {MAC: "kitchen", "5C:CF:7F:00:11:33": "cellar"})
        data: dict[str, Any] = tomllib.loads(EVERYTHING)
        shown = {key for key in data if key in PROJECT_KEYS}
        for kind in ("projects", "devices", "groups"):
            shown.update(key for table in data[kind].values() for key in table)
        self.assertEqual(shown, {*PROJECT_KEYS, *DEVICE_KEYS, *GROUP_KEYS})
        self.assertEqual({*data["access"]}, {*ACCESS_KEYS})

    def test_page(self) -> None:
        """The page has each key in its tables, no others, and its examples can be used as they are."""
        page = (ROOT / "docs" / "policy.md").read_text()
        told = re.findall(r"(?m)^\| `([a-z-]+)` \| [^|]+ \| [^|]+ \|", page)
        self.assertEqual(set(told), {*PROJECT_KEYS, *DEVICE_KEYS, *GROUP_KEYS, *ACCESS_KEYS})
        examples = re.findall(r"(?ms)^```toml\n(.*?)^```$", page)
        self.assertGreater(len(examples), 1)
        for text in examples:
            with self.subTest(text):
                self.assertIsInstance(read(text), Policy)

    def test_messages_of_the_page(self) -> None:
        """The errors that the page shows are those that the program tells."""
        page = (ROOT / "docs" / "policy.md").read_text()
        shown = re.findall(r"(?m)^\| `([^`]+)` \| `(ota\.toml[^`]*)` \|$", page)
        self.assertGreater(len(shown), 3)
        for setting, message in shown:
            with self.subTest(setting):
                self.assertEqual(str(self.assertRaises(PolicyError, read, setting)), message)
