"""Tests of how the ledger's tables are made and changed, in real SQLite files and on a real PostgreSQL server."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import attrs
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet import database, schema
from ota_server.fleet.database import MIGRATIONS, Database
from ota_server.fleet.journal import Batch, DeviceRow, RolloutRow
from ota_server.fleet.ledger import Ledger, LedgerError, sqlite_url
from ota_server.fleet.rollout import State
from tests.fleet.databases import fill_disk, postgresql, small_disk

_NOW = 1_790_000_000.0

_DEVICE = DeviceRow(1, "one", None, "stable", "lamp", _NOW, _NOW, "192.0.2.7", None, None, None, b"", None, 0)
_HALTED = RolloutRow("stable", "lamp", (1, 2, 3), State.HALTED, 0, None, _NOW, _NOW, 0, "it bounced")

_NEXT = '''
"""A change that only this test knows."""

import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{last}"


def upgrade():
    op.add_column("devices", sa.Column("mood", sa.Text))
    {more}
'''


class MigrationTests(SynchronousTestCase):
    """The tables are made and changed as the program needs them, whole or not at all."""

    def setUp(self) -> None:
        """Choose a place for the file."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "ledger.sqlite"
        self.url = sqlite_url(self.path)

    def _open(self, url: str | None = None) -> Ledger:
        ledger = Ledger(url or self.url)
        self.addCleanup(ledger.close)
        self.assertEqual(ledger.open(_NOW), ())
        return ledger

    def _fill(self, url: str | None = None) -> None:
        ledger = self._open(url)
        ledger.write(Batch(1, devices=[_DEVICE], rollouts=[_HALTED]))
        ledger.close()

    def _know_next(self, more: str = "") -> None:
        """Let the program know one more change, which it needs."""
        migrations = self.folder.with_name(f"{self.folder.name}-migrations")
        shutil.copytree(MIGRATIONS, migrations)
        (migrations / "versions" / "next.py").write_text(_NEXT.format(last=schema.REVISION, more=more))
        self.patch(database, "MIGRATIONS", migrations)
        self.patch(schema, "REVISION", "next")

    def _columns(self, path: Path) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return [row[1] for row in connection.execute("PRAGMA table_info(devices)")]

    def _names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir() if each.suffix != ".lock")

    def test_head(self) -> None:
        """The revision that the program asks for is the last one that it has the changes for."""
        self.assertEqual(ScriptDirectory(str(MIGRATIONS)).get_heads(), [schema.REVISION])

    def test_agree(self) -> None:
        """The changes leave just the tables that the program expects, as alembic compares them."""
        for url in (self.url, postgresql().empty()):
            with self.subTest(url):
                self._open(url).close()
                opened = Database(url)
                opened.open(_NOW)
                self.addCleanup(opened.close)
                with opened.reading() as connection:
                    context = MigrationContext.configure(connection, opts={"compare_type": True})
                    self.assertEqual(compare_metadata(context, schema.METADATA), [])
                    for table in schema.METADATA.sorted_tables:
                        found = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
                        self.assertEqual(found, [each.name for each in table.primary_key.columns], table.name)

    def test_back_and_forth(self) -> None:
        """All changes can be taken back, which leaves no tables, and be made again."""
        for url in (self.url, postgresql().empty()):
            with self.subTest(url):
                self._open(url).close()
                opened = Database(url)
                opened.open(_NOW)
                config = Config()
                config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
                with opened.writing() as connection:
                    config.attributes["connection"] = connection
                    command.downgrade(config, "base")
                    self.assertEqual(inspect(connection).get_table_names(), [schema.VERSION_TABLE])
                opened.close()
                self._fill(url)

    def test_fresh(self) -> None:
        """A new file is made without a copy of anything, and opening it again changes nothing."""
        self._fill()
        self.assertEqual(self._names(), ["ledger.sqlite"])
        before = self.path.read_bytes()
        self._open().close()
        self.assertEqual((self._names(), self.path.read_bytes()), (["ledger.sqlite"], before))

    def test_older(self) -> None:
        """Tables of an older revision are changed after a copy of the file, and keep what is in them."""
        self._fill()
        self._know_next()
        memory = self._open().load(_NOW)
        self.assertEqual(list(memory.devices), ["one"])
        self.assertEqual(memory.places["stable", "lamp"].barred, frozenset({(1, 2, 3)}))
        self.assertIn("mood", self._columns(self.path))
        copy = self.folder / "ledger.sqlite.before-next"
        self.assertNotIn("mood", self._columns(copy))
        self.assertEqual(stat.S_IMODE(copy.stat().st_mode), 0o600)
        with closing(sqlite3.connect(copy)) as connection:
            self.assertEqual(connection.execute("SELECT state FROM rollouts").fetchall(), [("halted",)])
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)])

    def test_older_with_a_log(self) -> None:
        """The copy also holds what stands in SQLite's log only, as after a crash."""
        ledger = self._open()
        ledger.write(Batch(1, devices=[_DEVICE]))
        crashed = self.folder.with_name(f"{self.folder.name}-crashed")
        shutil.copytree(self.folder, crashed)
        self.assertGreater((crashed / "ledger.sqlite-wal").stat().st_size, 0)
        self._know_next()
        self.assertEqual(list(self._open(sqlite_url(crashed / "ledger.sqlite")).load(_NOW).devices), ["one"])
        with closing(sqlite3.connect(crashed / "ledger.sqlite.before-next")) as connection:
            self.assertEqual(connection.execute("SELECT id FROM devices").fetchall(), [("one",)])

    def test_older_on_postgresql(self) -> None:
        """Tables of an older revision are changed on PostgreSQL too."""
        url = postgresql().empty()
        self._fill(url)
        self._know_next()
        self.assertEqual(list(self._open(url).load(_NOW).devices), ["one"])
        self.assertEqual(self._names(), [])

    def test_failing(self) -> None:
        """A change that fails halfway leaves the tables as they were."""
        self._fill()
        self._know_next('op.execute("NO SUCH THING")')
        self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)
        self.assertNotIn("mood", self._columns(self.path))
        self._forget_next()
        self.assertEqual(list(self._open().load(_NOW).devices), ["one"])

    def test_failing_on_postgresql(self) -> None:
        """So it is on PostgreSQL."""
        url = postgresql().empty()
        self._fill(url)
        self._know_next('op.execute("NO SUCH THING")')
        self.assertRaises(LedgerError, Ledger(url).open, _NOW)
        self._forget_next()
        self.assertEqual(list(self._open(url).load(_NOW).devices), ["one"])

    def _forget_next(self) -> None:
        self.patch(database, "MIGRATIONS", MIGRATIONS)
        self.patch(schema, "REVISION", ScriptDirectory(str(MIGRATIONS)).get_current_head())

    def test_no_room_for_the_copy(self) -> None:
        """Where the copy can't be made nothing is changed, and nothing of it is left behind."""
        with small_disk(self.folder / "disk", "2M") as disk:
            url = sqlite_url(disk / "ledger.sqlite")
            ledger = self._open(url)
            rows = [attrs.evolve(_DEVICE, key=key, id=str(key)) for key in range(1, 2000)]
            for start in range(0, 1999, 100):
                ledger.write(Batch(start + 1, devices=rows[start : start + 100]))
            ledger.close()
            fill_disk(disk / "other", leave=100_000)
            self._know_next()
            self.assertIn("full", str(self.assertRaises(LedgerError, Ledger(url).open, _NOW)))
            names = sorted(each.name for each in disk.iterdir() if each.suffix != ".lock")
            self.assertEqual(names, ["ledger.sqlite", "other"])
            self._forget_next()
            self.assertEqual(len(self._open(url).load(_NOW).devices), 1999)

    def test_newer(self) -> None:
        """Tables of a revision that the program doesn't know are a newer one's: that is told, nothing is done."""
        for url in (self.url, postgresql().empty()):
            with self.subTest(url):
                self._fill(url)
                opened = Database(url)
                opened.open(_NOW)
                with opened.writing() as connection:
                    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
                opened.close()
                before = self.path.read_bytes()
                ledger = Ledger(url)
                for use, *arguments in (
                    (ledger.open, _NOW),
                    (ledger.open_for_reading,),
                    (ledger.give_order, 1.0, "", ""),
                ):
                    message = str(self.assertRaises(LedgerError, use, *arguments))
                    self.assertIn("0999", message)
                    self.assertIn(schema.REVISION, message)
                self.assertIn("newer", str(self.assertRaises(LedgerError, ledger.open, _NOW)))
                self.assertEqual((self._names(), self.path.read_bytes()), (["ledger.sqlite"], before))

    def test_reading_older(self) -> None:
        """A reader changes no tables: it says that they are of another version."""
        self._fill()
        self._know_next()
        message = str(self.assertRaises(LedgerError, Ledger(self.url).open_for_reading))
        self.assertIn("next", message)
        self.assertNotIn("mood", self._columns(self.path))

    def test_other_program(self) -> None:
        """A file that another program made is copied, and where its tables are in the way left as it is."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE devices (mine)")
        self.assertIn("devices", str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))
        self.assertEqual(self._columns(self.path), ["mine"])
        self.assertEqual(self._names(), ["ledger.sqlite", f"ledger.sqlite.before-{schema.REVISION}"])
