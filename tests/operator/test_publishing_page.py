"""docs/publishing.md tells of what can happen."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator import durably, ordering, policy_file, publishing, receiving, writing, yanking, yard
from ota_server.operator.ordering import DEVICE_ORDERS, ROLLOUT_ORDERS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "publishing.md").read_text()

TOLD_ELSEWHERE = {"bad-body", "unknown-device"}
"""Problems that other pages tell of."""


class PageTests(SynchronousTestCase):
    """The page, beside the program."""

    def test_problems(self) -> None:
        """Each kind of problem stands there."""
        found = set()
        for room in (durably, ordering, policy_file, publishing, receiving, writing, yanking, yard):
            found |= set(re.findall(r"Problem\(\s*[0-9]{3},\s*\"([a-z-]+)\"", inspect.getsource(room)))
        self.assertGreater(len(found), 15)
        self.assertEqual({kind for kind in found - TOLD_ELSEWHERE if f"`{kind}`" not in PAGE}, set())

    def test_orders(self) -> None:
        """Each order and setting stands there."""
        for word in (*ROLLOUT_ORDERS, *DEVICE_ORDERS, "pin", "unpin", "hold", "release", "rename"):
            self.assertIn(f"| `{word}` |", PAGE)

    def test_parameters(self) -> None:
        """Each parameter of publishing stands there, and the words for what is wrong."""
        for word in ("channel", "kind", "chip", "compressed", "replace"):
            self.assertIn(f"| `{word}` |", PAGE)
        for word in ("damaged", "chip-differs", "unsigned"):
            self.assertIn(f"`{word}`", PAGE)
            self.assertIn(f'"{word}"', inspect.getsource(receiving))
