"""What a person wrote in `ota.toml` stays to the byte, and what was asked for is what the policy then says."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.policy import read_policy
from ota_server.fleet.toml_lines import Section, find_sections
from ota_server.operator.editing import EditError, rename_device, set_device

KITCHEN = "5C:CF:7F:00:11:22"
HALL = "24:6F:28:00:00:01"

WRITTEN = """\
# The lamps of the house.
stages = ["1", "100%"]  # slowly

[devices."5c-cf-7f-00-11-22"]   # upstairs
name = 'kitchen'
  # since the accident
hold=true # ask Bob

# Everything that visitors see.
[groups.showroom]
members = [
  "kitchen",   # also at night
  '24:6F:28:00:00:01',
]
[devices.kitchen]
channel = "beta"
"""


class SettingTests(SynchronousTestCase):
    """Setting and taking away keys of a device."""

    def check(self, before: str, changes: dict[str, Any], after: str, device: str = KITCHEN) -> None:
        """Edit a text both as it is and with ends of lines as on Windows."""
        self.assertEqual(set_device(before, device, changes), after)
        self.assertEqual(
            set_device("\ufeff" + before.replace("\n", "\r\n"), device, changes),
            "\ufeff" + after.replace("\n", "\r\n"),
        )

    def test_in_its_table(self) -> None:
        """A new key goes behind the last of the device's table, and not behind the comment on the next."""
        self.check(WRITTEN, {"pin": "1.2.3"}, WRITTEN.replace("# ask Bob\n", '# ask Bob\npin = "1.2.3"\n'))

    def test_where_it_stands(self) -> None:
        """A key that is there changes in its place, also in a table that calls the device by its name."""
        self.check(WRITTEN, {"channel": "gamma"}, WRITTEN.replace('"beta"', '"gamma"'))
        self.check(WRITTEN, {"hold": False}, WRITTEN.replace("hold=true", "hold=false"))

    def test_taken_away(self) -> None:
        """A key that goes takes its line along; one that isn't there changes nothing."""
        self.check(WRITTEN, {"hold": None, "pin": None}, WRITTEN.replace("hold=true # ask Bob\n", ""))
        self.check(WRITTEN, {"pin": None}, WRITTEN)

    def test_several(self) -> None:
        """Several keys of several tables change together."""
        after = WRITTEN.replace("hold=true # ask Bob\n", 'pin = "1.0.0"\n').replace('channel = "beta"\n', "")
        self.check(WRITTEN, {"hold": None, "pin": "1.0.0", "channel": None}, after.replace("[devices.kitchen]\n", ""))

    def test_new_table(self) -> None:
        """A device without a table gets one behind the others', and it goes again with its last key."""
        after = WRITTEN + f'\n[devices."{HALL}"]\npin = "1.2.3"\ndowngrade = true\n'
        self.check(WRITTEN, {"pin": "1.2.3", "downgrade": True}, after, HALL)
        self.check(after, {"pin": None, "downgrade": None}, WRITTEN, HALL)

    def test_new_table_between(self) -> None:
        """The new table leaves comments with what they are about."""
        before = '[devices.7]\nhold = true\n\n# Visitors.\n[groups.x]\nmembers = ["7"]\n'
        after = before.replace("true\n", "true\n\n[devices.8]\nhold = true\n")
        self.check(before, {"hold": True}, after, "8")

    def test_comment_keeps_table(self) -> None:
        """A table that has lost its last key stays where a comment is about it."""
        for before in (
            "# Bob's\n[devices.7]\nhold = true\n",
            "[devices.7] # Bob's\nhold = true\n",
            "[devices.7]\nhold = true\n# Bob's\n",
            "[devices.7]\n# Bob's\nhold = true\n",
        ):
            self.check(before, {"hold": None}, before.replace("hold = true\n", ""), "7")

    def test_empty(self) -> None:
        """A text without anything, or without an end of its last line."""
        self.assertEqual(set_device("", "7", {"hold": True}), "[devices.7]\nhold = true\n")
        self.assertEqual(set_device("hold = true", "7", {"hold": False}), "hold = true\n\n[devices.7]\nhold = false\n")
        self.assertEqual(set_device("# none", "7", {"hold": None}), "# none")

    def test_other_forms(self) -> None:
        """Inline tables and keys with dots are changed in their own form."""
        self.check(
            'devices = {7 = {pin = "1.0.0"}} # x\n', {"pin": "2.0.0"}, 'devices = {7 = {pin = "2.0.0"}} # x\n', "7"
        )
        self.check(
            'devices.7.pin = "1.0.0"\nhold = true\n', {"pin": "2.0.0"}, 'devices.7.pin = "2.0.0"\nhold = true\n', "7"
        )
        text = set_device('devices = {7 = {pin = "1.0.0"}}\n', "8", {"hold": True})
        self.assertTrue(read_policy(text, "f").rules_for("x", "8").hold)

    def test_brackets_in_texts(self) -> None:
        """What looks like a header inside a text of several lines is none."""
        before = '[devices.7]\nname = """\n[devices.8]\\\n"""\n[devices.8]\nhold = true\n'
        self.check(before, {"hold": False}, before.replace("hold = true", "hold = false"), "8")

    def test_no_toml(self) -> None:
        """A text that can't be read is left alone."""
        for text in ("hold = \n", "[devices.7]\nhold = true\n[devices.7]\n", "a" * 10):
            with self.assertRaises(EditError) as caught:
                set_device(text, "7", {"hold": True})
            self.assertIn("by hand", str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))


class RenamingTests(SynchronousTestCase):
    """Giving a device another name."""

    def test_everywhere(self) -> None:
        """Tables and groups that call the device by its name follow, and nothing else changes."""
        after = (
            WRITTEN.replace("name = 'kitchen'", 'name = "big kitchen"')
            .replace('"kitchen",', '"big kitchen",')
            .replace("[devices.kitchen]", '[devices."big kitchen"]')
        )
        self.assertEqual(rename_device(WRITTEN, KITCHEN, "big kitchen"), after)
        self.assertEqual(read_policy(after, "f").names, {KITCHEN: "big kitchen"})

    def test_first_name(self) -> None:
        """A device without a table gets one for its name."""
        after = rename_device("", HALL, 'the "hall"')
        self.assertEqual(read_policy(after, "f").names, {HALL: 'the "hall"'})
        self.assertEqual(rename_device(after, HALL, None), "")
        self.assertEqual(rename_device("", HALL, None), "")

    def test_same_name(self) -> None:
        """The name that it has already changes nothing."""
        self.assertEqual(rename_device(WRITTEN, KITCHEN, "kitchen").replace('"kitchen"\n', "'kitchen'\n"), WRITTEN)

    def test_by_hand(self) -> None:
        """A form that isn't understood is left to a person."""
        text = '[devices]\n7 = { name = "a" }\na = { hold = true }\n'
        with self.assertRaises(EditError):
            rename_device(text, "7", "b")


class SectionTests(SynchronousTestCase):
    """Where the tables of a text stand."""

    def test_sections(self) -> None:
        """A table ends with its last value, whatever comment follows."""
        text = "# a\nb = 1\n\n[c]\n# d\n[e.f]\ng = [\n 1,\n]\n# h\n"
        self.assertEqual(
            find_sections(text),
            (Section((), 1, 2), Section(("c",), 4, 4), Section(("e", "f"), 6, 9)),
        )


_IDS = ("7", "8", KITCHEN, HALL)
_PADS = st.sampled_from(["", " ", "  "])
_COMMENTS = st.sampled_from(["", "  # note", " # [devices.7] pin = 'x'", "\t#"])
_BETWEEN = st.sampled_from(["", "\n", "# about what follows\n", "\n# two\n\n# three\n"])


@st.composite
def _tables(draw: st.DrawFn) -> str:
    """Make a policy as people write it, with tables of some devices."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    parts = [draw(_BETWEEN), draw(st.sampled_from(["", "hold = false\n", 'soak = "1h" # long\n']))]
    for device in draw(st.lists(st.sampled_from(_IDS), unique=True)):
        parts.append(draw(_BETWEEN))
        quote = draw(st.sampled_from("\"'"))
        pad = draw(_PADS)
        parts.append(f"{pad}[{pad}devices{pad}.{pad}{quote}{device}{quote}{pad}]{draw(_COMMENTS)}\n")
        values = {
            "pin": draw(st.sampled_from(['"1.2.3"', "'1.0'", '"""2.0.0"""'])),
            "hold": draw(st.sampled_from(["true", "false"])),
            "channel": '"beta"',
        }
        for key in draw(st.lists(st.sampled_from(list(values)), unique=True)):
            parts.append(draw(_BETWEEN))
            parts.append(f"{pad}{key}{draw(_PADS)}={draw(_PADS)}{values[key]}{draw(_COMMENTS)}\n")
        if draw(st.booleans()):
            parts.append(
                f'[projects.p{device.replace(":", "")}]{draw(_COMMENTS)}\nstages = [\n  "1", # one\n  "50%"\n]\n'
            )
    parts.append(draw(_BETWEEN))
    return "".join(parts).replace("\n", end)


_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "pin": st.sampled_from([None, "3.0.0", "1.2.3"]),
        "hold": st.sampled_from([None, True, False]),
        "channel": st.sampled_from([None, "gamma"]),
    },
)


def _others(text: str, device: str) -> list[str]:
    """Return the lines outside of the tables of a device; of those the ends of lines as they are."""
    lines = text.split("\n")
    for section in reversed(find_sections(text.replace("\r\n", "\n"))):
        if section.path == ("devices", device):
            del lines[section.first - 1 : section.last]
    return lines


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _comments(text: str) -> list[str]:
    """Return the lines that are comments."""
    return [line for line in text.split("\n") if line.lstrip().startswith("#")]


class EditingProperties(SynchronousTestCase):
    """Laws of editing, for any policy and any change."""

    @settings(max_examples=300, deadline=None)
    @given(_tables(), st.sampled_from(_IDS), _CHANGES)
    def test_only_its_table(self, text: str, device: str, changes: dict[str, Any]) -> None:
        """Only the table of the device changes, the policy says what was meant, and a second time does nothing."""
        before = read_policy(text, "f")
        edited = set_device(text, device, changes)
        policy = read_policy(edited, "f")
        for other in _IDS:
            old, new = before.rules_for("x", other), policy.rules_for("x", other)
            if other != device:
                self.assertEqual(old, new)
                continue
            self.assertEqual(str(new.pin), str(changes.get("pin", old.pin)))
            self.assertEqual(new.hold, bool(changes.get("hold", old.hold)))
            self.assertEqual(new.channel, changes.get("channel", old.channel))
        self.assertEqual(set_device(edited, device, changes), edited)
        self.assertEqual(_comments(text), _comments(edited))
        # An empty line may come or go with a whole table, and no other; a comment among its keys may end behind it.
        kept, left = _others(text, device), _others(edited, device)
        if "\n\n" not in text.replace("\r", "") and len(kept) == len(left):
            self.assertEqual(kept, left)
        self.assertEqual(list(filter(_says, kept)), list(filter(_says, left)))
        if "\r\n" in text:
            self.assertEqual(edited.count("\n"), edited.count("\r\n"))
