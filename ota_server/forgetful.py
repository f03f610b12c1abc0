"""Deciding without a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.versions import Numbers
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decide import Decision, decide
from ota_server.fleet.device import Place
from ota_server.fleet.policy import DEFAULT_POLICY, Policy


class Forgetful:
    """Decides by the policy alone, and remembers nothing: what `--database none` means."""

    changes = 0

    def __init__(self, policy: Policy = DEFAULT_POLICY, now: Callable[[], float] = lambda: 0.0) -> None:
        self.policy = policy
        self._now = now

    def answer(self, check_in: CheckIn, catalog: Catalog, address: str) -> Decision:
        """Decide what to answer to a check-in."""
        rules = self.policy.rules_for(check_in.project, check_in.device)
        if rules.stages:
            # Nobody could say who is in one.
            rules = attrs.evolve(rules, stages=())
        return decide(check_in, catalog, rules, now=self._now())

    def barred(self, place: Place) -> frozenset[Numbers]:
        """Return no version."""
        return frozenset()

    def watch(self, check_in: CheckIn, catalog: Catalog, address: str, break_off: Callable[[], None]) -> None:
        """Follow nothing."""

    def break_off(self, images: Iterable[Image]) -> None:
        """End no download, since none is followed."""

    def take_policy(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self.policy = policy

    def take_catalog(self, catalog: Catalog) -> None:
        """Take no notice of what there is."""
