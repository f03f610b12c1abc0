"""What is odd about an image that has just appeared: findings for a person, which block nothing.

The commonest real accident is the endless update loop: the file's name says one version and the image inside reports
another. Images for another board, unsigned ones among signed ones, and builds for debugging come next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
from semver import Version

from ota_server.firmware.catalog import Image, Project, Release
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import VersionError, compare, read_reported_version

SIZE_JUMP = 0.5
"""A change of size by more than this share of the last release's is worth a word."""


WORDS = {
    "not-for-ota": "a boot loader, a merged factory image, or a file whose name says another kind than its bytes",
    "version-differs": "the version inside isn't that of the name: the commonest cause of endless updates",
    "chip-differs": "the chip of the name isn't that of the image",
    "other-chip": "the last release was for another chip",
    "other-project": "the last release called itself otherwise inside",
    "same-bytes": "another version holds the very same bytes",
    "same-version": "another file of this version, spelled otherwise (1.2 and 1.2.0); one of them is offered",
    "lower-version": "a higher version is there already",
    "unsigned": "the last release was signed, this one isn't",
    "debug": "built for debugging, or from sources that weren't committed",
    "size-jump": "more than half as large again as the last release, or less than half of it",
    "flash-size": "built for more flash than the last release",
    "chip-revision": "needs a newer revision of the chip than the last release",
    "secure-version": "a lower secure version than the last release's, which protected devices refuse",
    "trailing-bytes": "bytes behind the image that nothing explains",
    "gzip": "compressed, and not beside a plain file of the same bytes",
}
"""Every finding, with what it means."""


@attrs.frozen
class Finding:
    """One odd thing: a short stable word, and a sentence for a person that begins after the file's name.

    `serious` ones are likely to end in devices that don't update or never stop to.
    """

    word: str
    text: str
    serious: bool = False


def lint(image: Image, project: Project, *, new: bool = True) -> tuple[Finding, ...]:
    """Return what is odd about an image of a project; `new` says that it has just come, while others were there."""
    return tuple(_lint(image, project, new=new))


def lint_alone(image: Image) -> tuple[Finding, ...]:
    """Return what is odd about an image by itself: its name beside its bytes."""
    return tuple(_lint_alone(image))


def _lint(image: Image, project: Project, *, new: bool) -> Iterator[Finding]:
    yield from _lint_alone(image)
    if not image.for_ota:
        # That is enough; whatever else it is, no device will get it.
        return
    release = project.release(image.version)
    if release is not None:
        yield from _lint_compressed(image, release)
        for other in release.images:
            if other is not image and _is_alike(other, image):
                used = next(each for each in release.images if _is_alike(each, image))
                yield Finding("same-version", f"is the same version as {other.file_name}: {used.file_name} is offered")
    if len(project.releases) < 2:
        return
    newest = find_newest(image, project)
    if new and newest is not None and compare(newest.version, image.version) > 0:
        yield Finding(
            "lower-version", f"is version {image.version}, and {newest.version} is there: no device will get it"
        )
    yield from _lint_bytes(image, project)
    last = _find_last(image, project)
    if last is not None:
        yield from _lint_beside(image, last)


def _lint_alone(image: Image) -> Iterator[Finding]:
    facts = image.facts
    if not image.for_ota:
        yield Finding("not-for-ota", f"is to be had at its own address only: {say_why_unfit(image)}", serious=True)
    inside = _read_version(facts)
    if inside is not None and compare(inside, image.version) != 0:
        yield Finding(
            "version-differs",
            f"says {image.version} in its name and {facts.version} inside: devices that report that, and no hash, would"
            f" be {'updated without end' if compare(inside, image.version) < 0 else 'left out later'}",
            serious=True,
        )
    if image.name.chip is not None and facts.chip is not None and image.name.chip != facts.chip:
        yield Finding(
            "chip-differs",
            f"says {image.name.chip} in its name and {facts.chip} inside: no device will get it",
            serious=True,
        )
    if facts.debug:
        yield Finding("debug", f"was built for debugging: {', '.join(facts.debug)}")
    if facts.version is not None and re.search(r"dirty|debug", facts.version, re.IGNORECASE):
        yield Finding("debug", f"was built from changed or unfinished sources: its version inside is {facts.version}")
    if facts.trailing:
        yield Finding("trailing-bytes", f"has {facts.trailing} bytes behind the image that nothing explains")
    if image.compressed and not image.name.compressed:
        yield Finding("gzip", "is compressed: name it .bin.gz, and put the plain file beside it", serious=True)


def say_why_no_update(facts: ImageFacts) -> str:
    """Say, of a file that is not for updates, why, whatever its name is."""
    return f"it is no update: {facts.core.format.value}, which is written to a new device by wire"


def say_why_unfit(image: Image) -> str:
    """Say why an image is not for updates, be it for its name."""
    form = image.facts.core.format.value
    if image.facts.not_for_ota:
        return say_why_no_update(image.facts)
    if image.name.kind is Kind.FILESYSTEM:
        return f"its name says filesystem, and inside is a program ({form}), which would overwrite the device's files"
    return f"inside is a {form}; name it .fs.bin"


def _read_version(facts: ImageFacts) -> Version | None:
    """Return the version inside, or None where there is none that a device could report."""
    if facts.version is None:
        return None
    try:
        return read_reported_version(facts.version).version
    except VersionError:
        return None


def _lint_compressed(image: Image, release: Release) -> Iterator[Finding]:
    """Look for the plain image of a compressed one."""
    if not image.name.compressed:
        return
    plain = [each for each in release.images if not each.compressed]
    if any(image.packs(each) for each in plain):
        return
    plain = [each for each in plain if (each.name.kind, each.name.chip) == (image.name.kind, image.name.chip)]
    if not plain:
        yield Finding("gzip", "is offered only where its plain file stands beside it, which is missing")
    elif image.facts.signatures and image.facts.core.sha256 == plain[0].facts.sha256:
        yield Finding("gzip", "is signed, and signed files are not offered compressed", serious=True)
    else:
        yield Finding("gzip", f"doesn't hold the bytes of {plain[0].file_name}, so it is not offered", serious=True)


def _lint_bytes(image: Image, project: Project) -> Iterator[Finding]:
    """Look for the same bytes under another version."""
    for other in project.twins(image):
        if other.version != image.version:
            yield Finding("same-bytes", f"holds the same bytes as {other.file_name}", serious=True)
            return


def find_current(project: Project) -> Iterator[Image]:
    """Yield the images of a project that devices are sent, and what stands above these and is for none."""
    current: dict[tuple[Kind, str | None, bool], Release] = {}
    for release in project.releases:
        for image in release.images:
            devices = (image.name.kind, image.name.chip, image.compressed)
            if image.for_ota:
                current.setdefault(devices, release)
            if current.get(devices, release) is release:
                yield image


def find_newest(image: Image, project: Project) -> Image | None:
    """Return the image of the highest version that is for the same devices as this one, and for updates, or None."""
    for release in project.releases:
        for other in release.images:
            if _is_alike(other, image) and other.for_ota:
                return other
    return None


def _find_last(image: Image, project: Project) -> Image | None:
    """Find the image that this one follows: of the next lower release that has one of its kind."""
    for release in project.below(image.version):
        for other in release.images:
            if _is_alike(other, image) and other.for_ota:
                return other
    return None


def _is_alike(one: Image, other: Image) -> bool:
    """Say whether two images are for the same devices: of one kind, for one chip, both compressed or neither."""
    return (one.name.kind, one.name.chip, one.compressed) == (other.name.kind, other.name.chip, other.compressed)


def _lint_beside(image: Image, last: Image) -> Iterator[Finding]:
    """Compare an image with that of the last release."""
    facts, before = image.facts, last.facts
    name = last.file_name
    if facts.chip != before.chip and before.chip is not None:
        now = facts.chip or "no chip that can be told"
        yield Finding("other-chip", f"is for {now}, {name} is for {before.chip}", serious=True)
    if facts.project is not None and before.project is not None and facts.project != before.project:
        yield Finding(
            "other-project", f"calls itself {facts.project} inside, {name} calls itself {before.project}", serious=True
        )
    if before.signatures and not facts.signatures:
        yield Finding("unsigned", f"has no signature, {name} has one", serious=True)
    change = (image.size - last.size) / last.size
    if abs(change) > SIZE_JUMP and image.name.kind is Kind.APP:
        yield Finding("size-jump", f"has {image.size:,} bytes, {name} has {last.size:,} ({change:+.0%})")
    esp, old = facts.core.esp, before.core.esp
    if esp is None or old is None:
        return
    if esp.flash_size is not None and old.flash_size is not None and esp.flash_size > old.flash_size:
        yield Finding(
            "flash-size",
            f"is built for {esp.flash_size >> 10:,} KiB of flash, {name} for {old.flash_size >> 10:,} KiB",
            serious=True,
        )
    if (esp.min_chip_revision or 0) > (old.min_chip_revision or 0):
        yield Finding("chip-revision", f"needs a newer revision of the chip than {name}")
    if esp.app is not None and old.app is not None and esp.app.secure_version < old.app.secure_version:
        yield Finding(
            "secure-version",
            f"has secure version {esp.app.secure_version}, {name} has {old.app.secure_version}: devices with protection"
            " against rollback refuse it",
            serious=True,
        )
