"""What the server sees in a file, for a person and for scripts: the lines of `ota-server inspect`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import cattrs

from ota_server.firmware.catalog import STABLE, Catalog, FileIdentity, Image
from ota_server.firmware.esp import escape
from ota_server.firmware.facts import FLASH_MODES, Checked, EspFacts, Format, ImageFacts
from ota_server.firmware.lint import Finding, lint_alone, say_why_no_update, say_why_unfit
from ota_server.firmware.naming import FileName, Kind, NamingError, parse_file_name
from ota_server.firmware.signatures import VerifyKey, find_signer
from ota_server.fleet.checkin import DIALECTS, CheckIn, Mode
from ota_server.fleet.decide import Send, decide

_WIDTH = 100

LINES = {
    "offered": "whether the server would send the file to devices, and to which; or why not",
    "finding": "something odd, which doesn't keep the file from being offered",
    "file": "its size, and the MD5 that goes along as `X-MD5`",
    "SHA-256": "the hash of the whole file; the entity tag is made of its beginning",
    "form": "what kind of file it is, by its bytes",
    "unpacked": "the size of what is inside a gzip file, or behind a signature",
    "chip": "the chip it was built for, and the oldest and newest revision of it that it runs on",
    "version": "the version in the file's name, which decides, and the one inside, which a device may report",
    "project": "the project in the file's name, which decides, and the name that the program has inside",
    "built": "when and with which ESP-IDF, Espressif's framework, also beneath Arduino",
    "ELF": "SHA-256 of the program (ELF file) that the image was made of: it finds the debug symbols of a crash",
    "rollback": "the secure version: a device with protection against rollback refuses a lower one than it had",
    "flash": "the flash chip it was built for: size, mode of its data lines, clock",
    "entry": "the address that the program starts at",
    "segments": "the pieces that are loaded to memory: how many, their sizes, and the address that each goes to",
    "checksum": "one byte, made of all bytes of the segments",
    "hash": "the SHA-256 at the end of the image, made of all bytes before it",
    "CRC": "what the boot loader of an ESP8266 goes by (Arduino core 3.0 and later)",
    "unpacks": "whether a device that runs this can be sent gzip files",
    "reported": "how a device that runs this names it; an ESP8266 by one of four, as its flash mode is",
    "signature": "who signed it, how, and where in the file that stands",
    "debugging": "traces of a build for debugging: larger, slower, and it may tell secrets on the serial line",
    "trailing": "bytes behind the image that nothing explains",
}
"""Every line, with what it means."""


@attrs.frozen
class Report:
    """What the server sees in one file.

    `reason` says why it would not be offered, or is None, and `to` which devices would get it. `signers` are the keys
    that its signatures are by, or None for those that are by none.
    """

    file: str
    name: FileName | None
    reason: str | None
    facts: ImageFacts | None
    findings: tuple[Finding, ...] = ()
    signers: tuple[str | None, ...] = ()
    to: str = ""

    @property
    def offered(self) -> bool:
        """Whether the server would send it to devices."""
        return self.reason is None

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of the table, as (label, value): labels of LINES, or none where a line goes on."""
        yield "offered", _say_offer(self)
        for finding in self.findings:
            yield "finding", finding.text
        facts = self.facts
        if facts is None:
            return
        yield "file", f"{facts.size:,} bytes, MD5 {facts.md5}"
        yield "SHA-256", facts.sha256
        yield "form", _say_form(facts)
        if facts.inner is not None:
            yield "unpacked", f"{facts.inner.size:,} bytes"
        yield from self._describe_names(facts)
        if facts.core.esp is not None:
            yield from _describe_esp(facts.core, facts.core.esp)
        yield from _go_on("reported", _say_reported(facts))
        yield from _go_on("signature", self._say_signatures(facts))
        if facts.debug:
            yield "debugging", ", ".join(facts.debug)
        if facts.trailing:
            yield "trailing", f"{facts.trailing:,} bytes"

    def _describe_names(self, facts: ImageFacts) -> Iterator[tuple[str, str]]:
        esp = facts.core.esp
        if facts.chip is not None:
            yield "chip", spell_chip(facts.chip) + _say_revisions(esp)
        named = str(self.name.version) if self.name else None
        yield "version", _say_both(named, facts.version, facts)
        yield "project", _say_both(self.name.project if self.name else None, facts.project, facts)

    def _say_signatures(self, facts: ImageFacts) -> list[str]:
        if not facts.signatures:
            return ["none"]
        said = []
        for signature, signer in zip(facts.signatures, self.signers, strict=True):
            by = f", by {signer}" if signer else ""
            said.append(f"{signature.scheme.value}, {signature.length:,} bytes at byte {signature.offset:,}{by}")
        return said

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has, all keys in every case; hashes are hexadecimal, sizes in bytes."""
        name = self.name
        return {
            "file": self.file,
            "offered": self.offered,
            "reason": self.reason,
            "findings": [attrs.asdict(finding) for finding in self.findings],
            "name": name
            and {
                "project": name.project,
                "version": str(name.version),
                "kind": name.kind.value,
                "chip": name.chip,
                "compressed": name.compressed,
            },
            "signers": list(self.signers),
            "facts": _converter.unstructure(self.facts),
        }


_converter = cattrs.Converter()


def make_report(
    file_name: str, facts: ImageFacts | None, problem: str | None, keys: Sequence[VerifyKey] = ()
) -> Report:
    """Make the report of a file: of its facts, or the problem that there was with reading it.

    With `keys` only images are offered that one of them signed.
    """
    name, reason = None, problem
    try:
        name = parse_file_name(file_name)
    except NamingError as error:
        reason = reason or f"its name {error}"
    if facts is None:
        return Report(file_name, name, reason, None)
    findings: tuple[Finding, ...] = ()
    to = ""
    if facts.damage is not None:
        reason = f"it is damaged: {facts.damage}"
    if name is not None:
        image = Image(STABLE, file_name, file_name, name, FileIdentity(0, facts.size, 0, 0), facts)
        findings = lint_alone(image)
        to, refusal = _find_takers(image)
        blocking = [finding for finding in findings if finding.word in ("not-for-ota", "chip-differs")]
        findings = tuple(finding for finding in findings if finding not in blocking)
        if blocking:
            refusal = blocking[0].text if image.for_ota else say_why_unfit(image)
        reason = reason or refusal
    elif facts.not_for_ota:
        reason = say_why_no_update(facts)
    signers = tuple(find_signer([signature], keys) for signature in facts.signatures)
    if keys and not any(signers):
        reason = reason or ("none of its signatures is by a given key" if signers else "it has no signature")
    return Report(file_name, name, reason, facts, findings, tuple(str(key) if key else None for key in signers), to)


def _find_takers(image: Image) -> tuple[str, str | None]:
    """Say which devices would be sent an image, by asking for each; and why not, where none would."""
    name, facts = image.name, image.facts
    below = f"a version below {image.version}"
    if image.compressed:
        if name.compressed and name.kind is Kind.APP and facts.core.format is Format.ESP8266_SKETCH:
            if not facts.signatures and not facts.trailing:
                return "beside the plain file, to an ESP8266 that surely unpacks it", None
            return "", "it is signed, or has something behind it, and compressed: that is never sent"
        return "", "it is compressed, and only the Arduino core for ESP8266 unpacks, sketches, named .bin.gz"
    catalog = Catalog.empty().replace({STABLE: {image.file_name: image}})
    mode = Mode.FILESYSTEM if name.kind is Kind.FILESYSTEM else Mode.SKETCH
    chip = name.chip or facts.chip

    def is_sent(dialect: str | None, its_chip: str | None) -> bool:
        check_in = CheckIn(STABLE, name.project, dialect, its_chip, version="0.0.0-0", mode=mode)
        return isinstance(decide(check_in, catalog), Send)

    takers = [dialect for dialect in DIALECTS if is_sent(dialect.name, dialect.chip or chip)]
    ask = " and ask for files" if mode is Mode.FILESYSTEM else ""
    if takers and chip is None:
        return f"to devices that run {below}{ask}", None
    if takers and chip is not None:
        return f"to {_article(spell_chip(chip))} that runs {below}{ask.replace('ask', 'asks')}", None
    if is_sent(None, chip):
        return f"to clients other than those of the Arduino cores, with {below}", None
    return "", "no device would be sent it"


def spell_chip(chip: str) -> str:
    """Spell a chip as its maker does: ESP32-C3 for `esp32c3`."""
    upper = chip.upper()
    return f"ESP32-{upper[5:]}" if upper.startswith("ESP32") and len(upper) > 5 else upper


def _say_offer(report: Report) -> str:
    name = report.name
    if report.reason is not None or name is None:
        return f"no: {report.reason}"
    return f"yes, at /{name.project}, {report.to}"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "AEIOU" else f"a {noun}"


def _say_form(facts: ImageFacts) -> str:
    form = facts.format.value
    if facts.inner is not None:
        return f"{form}, and inside: {facts.inner.format.value}"
    return "no form that is known here, sent as it is" if facts.format is Format.OPAQUE else form


def _say_revisions(esp: EspFacts | None) -> str:
    if esp is None or esp.min_chip_revision is None or esp.max_chip_revision is None:
        return ""
    lowest, highest = (f"{each // 100}.{each % 100}" for each in (esp.min_chip_revision, esp.max_chip_revision))
    if esp.max_chip_revision not in (0, 0xFFFF):
        return f", revisions {lowest} to {highest}"
    return f", revision {lowest} and later" if esp.min_chip_revision else ", any revision"


def _say_both(named: str | None, inside: str | None, facts: ImageFacts) -> str:
    """Say what stands in the name and what inside."""
    core = facts.core
    if inside is None:
        app = core.esp.app if core.esp else None
        inside = "the framework's own inside, which doesn't count" if app is not None else "none inside"
        return f"{named or 'none'} in the name, {inside}"
    return f"{named or 'none'} in the name, {inside} inside"


def _describe_esp(facts: ImageFacts, esp: EspFacts) -> Iterator[tuple[str, str]]:
    app = esp.app
    if app is not None:
        yield "built", f"{app.build_time}, with ESP-IDF {app.idf_version}"
        yield "ELF", app.elf_sha256
        yield "rollback", f"secure version {app.secure_version}"
    yield "flash", _say_flash(esp)
    yield "entry", f"{esp.entry:#010x}"
    total = sum(segment.length for segment in esp.segments)
    each = ", ".join(f"{segment.length:,} to {segment.address:#010x}" for segment in esp.segments)
    yield "segments", f"{len(esp.segments)}, {total:,} bytes in all" + (f": {each}" if each else "")
    if esp.checksum is not None:
        yield "checksum", _say_check(esp.checksum)
    if esp.appended_hash is not None:
        yield "hash", _say_check(esp.appended_hash)
    if esp.sketch_crc is not None:
        yield "CRC", _say_check(esp.sketch_crc)
    if facts.format is Format.ESP8266_SKETCH:
        yield "unpacks", "yes, gzip (core 2.7 or later)" if esp.can_unpack else "no (core 2.6 or earlier)"


def _say_flash(esp: EspFacts) -> str:
    size = "unknown size" if esp.flash_size is None else _say_size(esp.flash_size)
    mode = FLASH_MODES[esp.flash_mode].upper() if esp.flash_mode < len(FLASH_MODES) else f"mode {esp.flash_mode}"
    clock = "unknown clock" if esp.flash_frequency is None else f"{esp.flash_frequency // 10**6} MHz"
    return f"{size}, {mode}, {clock}"


def _say_size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


def _say_check(check: Checked) -> str:
    return f"{check.stated}, holds" if check.holds else f"{check.stated}, but its bytes give {check.computed}"


def _say_reported(facts: ImageFacts) -> list[str]:
    hashes = facts.sketch_hashes
    if facts.core.chip == "esp8266":
        return [f"sketch-md5 {md5} ({mode.upper()})" for md5, mode in zip(hashes, FLASH_MODES, strict=False)]
    return [f"sketch-{'md5' if len(each) == 32 else 'sha256'} {each}" for each in hashes]


def _go_on(label: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield several values under one label."""
    for number, value in enumerate(values):
        yield label if number == 0 else "", value


def render(report: Report) -> str:
    """Render a report as a table of two columns, for a terminal."""
    width = max(map(len, LINES))
    table = [escape(report.file)]
    for label, value in report.lines():
        first, *more = textwrap.wrap(value, _WIDTH, break_long_words=False) or [""]
        table += [f"  {label:<{width}}  {first}", *(f"  {'':<{width}}  {line}" for line in more)]
    return "\n".join(table) + "\n"
