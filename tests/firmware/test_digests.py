"""Tests of what is kept of files across restarts, in real SQLite files."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware import digests
from ota_server.firmware.catalog import FileIdentity
from ota_server.firmware.digests import FORMAT, DigestStore, Outcome
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.image import ImageError, read_image
from tests.images import zoo

_FACTS = ImageFacts(1000, "5" * 32, "2" * 64, "esp32", ("a" * 32, "b" * 64))
_ONE, _TWO = FileIdentity(1, 1000, 10, 11), FileIdentity(2, 50, 20, 21)

_NANOSECONDS = st.integers(-(2**63), 2**63 - 1)
_IDENTITIES = st.builds(FileIdentity, st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), _NANOSECONDS, _NANOSECONDS)


_Comparable = ImageFacts | tuple[int, str]


def _comparable(outcomes: dict[FileIdentity, Outcome]) -> dict[FileIdentity, _Comparable]:
    """Return outcomes with what errors say in place of these, since exceptions aren't compared by that."""
    return {
        key: (outcome.offset, outcome.reason) if isinstance(outcome, ImageError) else outcome
        for key, outcome in outcomes.items()
    }


class DigestStoreTests(SynchronousTestCase):
    """`DigestStore` keeps what came of reading files, and begins anew where it can't read its file."""

    def setUp(self) -> None:
        """Choose a place for the file."""
        self.path = Path(self.mktemp())

    def _load(self) -> dict[FileIdentity, _Comparable]:
        return _comparable(DigestStore(self.path).load())

    def _fill(self) -> None:
        store = DigestStore(self.path)
        store.load()
        store.save({_ONE: _FACTS}, ())
        self.assertEqual(self._load(), {_ONE: _FACTS})

    def _change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    def test_new(self) -> None:
        """A new store is empty, and has made its file."""
        self.assertEqual(self._load(), {})
        self.assertTrue(self.path.is_file())

    def test_kept(self) -> None:
        """What one store saved another one loads from the same file: facts, and errors with their text."""
        store = DigestStore(self.path)
        store.load()
        nothing_known = ImageFacts(50, "5" * 32, "2" * 64)
        store.save({_ONE: _FACTS, _TWO: nothing_known}, ())
        store.save({FileIdentity(3, 0, 0, 0): ImageError(7, "the file is empty, é \udcff")}, ())
        self.assertEqual(
            self._load(),
            {_ONE: _FACTS, _TWO: nothing_known, FileIdentity(3, 0, 0, 0): (7, "the file is empty, é \udcff")},
        )
        self.assertEqual(self._load(), _comparable(store.load()))

    def test_forgotten(self) -> None:
        """Outcomes of files that are no more are forgotten, and unknown ones to forget don't matter."""
        store = DigestStore(self.path)
        store.load()
        store.save({_ONE: _FACTS, _TWO: _FACTS}, ())
        store.save({}, [_ONE, FileIdentity(9, 9, 9, 9)])
        self.assertEqual(set(self._load()), {_TWO})

    def test_every_part_of_the_identity_counts(self) -> None:
        """Identities that differ in one part only are kept apart, and forgotten apart."""
        identities = [_ONE, *(_ONE._replace(**{part: 7}) for part in FileIdentity._fields)]
        store = DigestStore(self.path)
        store.load()
        store.save({identity: ImageError(0, str(identity)) for identity in identities}, ())
        self.assertEqual(self._load(), {identity: (0, str(identity)) for identity in identities})
        store.save({}, identities[:1])
        self.assertEqual(set(self._load()), set(identities[1:]))

    def test_replaced(self) -> None:
        """A later outcome for the same file takes the place of the earlier one, even when that is forgotten too."""
        store = DigestStore(self.path)
        store.load()
        store.save({_ONE: ImageError(0, "damaged")}, ())
        store.save({_ONE: _FACTS}, [_ONE])
        self.assertEqual(self._load(), {_ONE: _FACTS})

    @settings(deadline=None, max_examples=30)
    @given(
        st.dictionaries(
            _IDENTITIES,
            st.one_of(
                st.builds(ImageError, st.integers(0, 2**40), st.text(max_size=20)),
                st.from_type(ImageFacts),
            ),
            max_size=3,
        )
    )
    def test_any_outcomes(self, outcomes: dict[FileIdentity, Outcome]) -> None:
        """Whatever came of reading files comes back as it was, for any identity that a filesystem may give a file."""
        self.path.unlink(missing_ok=True)
        store = DigestStore(self.path)
        store.load()
        store.save(outcomes, ())
        self.assertEqual(self._load(), _comparable(outcomes))
        store.save({}, outcomes)
        self.assertEqual(self._load(), {})

    def test_every_sort_of_image(self) -> None:
        """The facts of one image of each sort come back as they were, also of damaged ones."""
        images = [*zoo().values(), *(data[: len(data) // 2] for data in zoo().values())]
        facts = {FileIdentity(number, 1, 2, 3): read_image(data) for number, data in enumerate(images)}
        store = DigestStore(self.path)
        store.load()
        store.save(facts, ())
        self.assertEqual(DigestStore(self.path).load(), facts)

    def test_little_is_kept(self) -> None:
        """Of a file that tells nothing no more is kept than its size and hashes: there may be very many."""
        store = DigestStore(self.path)
        store.load()
        store.save({_ONE: read_image(b"nothing known")}, ())
        with closing(sqlite3.connect(self.path)) as database:
            ((text,),) = database.execute("SELECT outcome FROM digests").fetchall()
        self.assertEqual(json.loads(text).keys(), {"size", "md5", "sha256"})

    def test_inode_of_64_bits(self) -> None:
        """An inode number that uses all of its 64 bits, as some network filesystems have, is kept as well."""
        identity = FileIdentity(2**64 - 1, 1000, 0, 0)
        store = DigestStore(self.path)
        store.load()
        store.save({identity: _FACTS}, ())
        self.assertEqual(self._load(), {identity: _FACTS})

    def test_without_path(self) -> None:
        """A store without a path keeps nothing and makes no file."""
        store = DigestStore(None)
        store.save({_ONE: _FACTS}, [_TWO])
        self.assertEqual(store.load(), {})

    def test_damaged_file(self) -> None:
        """A file that is no database is begun anew, and then keeps outcomes again."""
        for content in (b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000):
            with self.subTest(content[:10]):
                self.path.write_bytes(content)
                self.assertEqual(self._load(), {})
                self._fill()

    def test_damaged_page(self) -> None:
        """A database with a page overwritten is begun anew."""
        self._fill()
        with self.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096)
        self.assertEqual(self._load(), {})
        self._fill()

    def test_cut_file(self) -> None:
        """A database that was cut short, wherever, is begun anew."""
        self._fill()
        content = self.path.read_bytes()
        for end in (1, 20, 100, 512, 4096, len(content) - 1):
            with self.subTest(end=end):
                self.path.write_bytes(content[:end])
                self.assertEqual(self._load(), {})
                self._fill()

    def test_damaged_rows(self) -> None:
        """A database whose rows can't be read, or that lacks its table or a column, is begun anew."""
        for statement in (
            *(
                f"UPDATE digests SET outcome = '{text}'"
                for text in ("", "{", "[]", '["a"]', "null", "7", '"text"', '{"reason": "x"}', '{"error": "damaged"}')
            ),
            *(
                f"UPDATE digests SET outcome = json_set(outcome, '$.{field}', {value})"
                for field, value in (
                    ("size", "'many'"),
                    ("format", "'unheard of'"),
                    ("damage", "'bad'"),
                    ("esp", "json('{}')"),
                    ("signatures", "json('[{}]')"),
                    ("inner", "json('[]')"),
                    ("inner", "json('{}')"),
                    ("sketch_hashes", "7"),
                    ("error", "json('[1, 2, 3]')"),
                )
            ),
            "UPDATE digests SET outcome = json_remove(outcome, '$.md5')",
            "UPDATE digests SET outcome = x'ff'",
            "DROP TABLE digests",
            "ALTER TABLE digests RENAME COLUMN ctime_ns TO other",
        ):
            with self.subTest(statement):
                self._fill()
                self._change(statement)
                self.assertEqual(self._load(), {})
                self._fill()

    def test_other_format(self) -> None:
        """A database of another format is begun anew, whether it has the table or not."""
        for statements in (
            (f"PRAGMA user_version = {FORMAT + 1}",),
            ("PRAGMA user_version = 0",),
            (f"PRAGMA user_version = {FORMAT + 1}", "DROP TABLE digests"),
        ):
            with self.subTest(statements):
                self._fill()
                self._change(*statements)
                self.assertEqual(self._load(), {})
                self._fill()

    def test_no_leftovers(self) -> None:
        """Beginning anew takes away what else SQLite left beside the damaged file."""
        self.path.write_bytes(b"garbage" * 1000)
        leftovers = [Path(f"{self.path}{suffix}") for suffix in ("-wal", "-shm", "-journal")]
        for leftover in leftovers:
            leftover.write_bytes(b"garbage")
        self.assertEqual(self._load(), {})
        self.assertEqual([leftover for leftover in leftovers if leftover.exists()], [])

    def test_unwritable_place(self) -> None:
        """A place where no file can be made raises OSError, for loading as for saving."""
        self.path.write_bytes(b"")
        for path in (self.path / "digests", Path(self.mktemp()) / "missing" / "digests"):
            with self.subTest(path.name):
                self.assertRaises(OSError, DigestStore(path).load)
                self.assertRaises(OSError, DigestStore(path).save, {_ONE: _FACTS}, ())

    def test_folder_in_its_place(self) -> None:
        """A folder where the file should be raises OSError, and stays."""
        self.path.mkdir()
        self.assertRaises(OSError, DigestStore(self.path).load)
        self.assertRaises(OSError, DigestStore(self.path).save, {_ONE: _FACTS}, ())
        self.assertTrue(self.path.is_dir())

    def test_saving_to_a_damaged_file(self) -> None:
        """A file damaged after it was loaded raises OSError when it is saved to, which names the file."""
        store = DigestStore(self.path)
        store.load()
        self.path.write_bytes(b"garbage" * 1000)
        error = self.assertRaises(OSError, store.save, {_ONE: _FACTS}, ())
        self.assertIn(str(self.path), str(error))

    def test_locked(self) -> None:
        """A file that another process holds for long is neither read nor begun anew, and what it keeps stays."""
        self._fill()
        holder = sqlite3.connect(self.path)
        self.addCleanup(holder.close)
        holder.execute("BEGIN EXCLUSIVE")
        self.patch(digests, "LOCK_PATIENCE", 0)
        error = self.assertRaises(OSError, DigestStore(self.path).load)
        self.assertIn("locked", str(error))
        holder.rollback()
        self.assertEqual(self._load(), {_ONE: _FACTS})

    def test_saved_whole_or_not_at_all(self) -> None:
        """When one outcome can't be saved, nothing of that save is kept."""
        self._fill()
        self._change(
            "CREATE TRIGGER no BEFORE INSERT ON digests WHEN NEW.inode = 2 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        store = DigestStore(self.path)
        self.assertRaises(OSError, store.save, {_TWO._replace(inode=3): _FACTS, _TWO: _FACTS}, [_ONE])
        self.assertEqual(self._load(), {_ONE: _FACTS})
