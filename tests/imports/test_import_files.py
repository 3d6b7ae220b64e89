"""Files of customers, odd ones too: each line's exact error, and the good ones imported."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Refused, RestDoor
from tests.factories import a_customer, new_id
from tests.imports.files import counts, errors, upload

MALFORMED, NOT_TEXT, TOO_LONG, INVALID, EXISTS = (
    "MALFORMED_LINE",
    "NOT_TEXT",
    "LINE_TOO_LONG",
    "INVALID_VALUE",
    "CUSTOMER_ALREADY_EXISTS",
)

MIB = 1024 * 1024
"""Bytes of a chunk that is imported in one transaction."""

# `@` stands for a prefix that no other file has. What is in the file, who is created with which score, and each error.
FILES = {
    "plain": (b"@a,100\n@b,0.5\n", {"@a": "100.00", "@b": "0.50"}, []),
    "no newline at the end": (b"@a,1\n@b,2", {"@a": "1.00", "@b": "2.00"}, []),
    "a byte order mark": (b"\xef\xbb\xbf@a,1\n", {"@a": "1.00"}, []),
    "windows line ends": (b"@a,1\r\n@b,2\r\n", {"@a": "1.00", "@b": "2.00"}, []),
    "windows line ends, but for the last": (b"@a,1\r\n@b,2\r", {"@a": "1.00", "@b": "2.00"}, []),
    "blank lines count as lines": (b"\n \t\n@a,1\n\n@b,x\n", {"@a": "1.00"}, [(5, "@b", "score", INVALID)]),
    "spaces around values": (b" @a ,\t1 , 2026-01-01T00:00:00Z \n", {"@a": "1.00"}, []),
    "quoted values": (b'"@a","1"\n "@b" , "2.5" ,""\n', {"@a": "1.00", "@b": "2.50"}, []),
    "an empty third column": (b"@a,1,\n", {"@a": "1.00"}, []),
    "a header": (b"external_id,score,preapproved_at\n@a,1\n", {"@a": "1.00"}, []),
    "a header after a mark and blank lines": (b"\xef\xbb\xbf\r\n External_ID ,score\r\n@a,1\r\n", {"@a": "1.00"}, []),
    "a header elsewhere is a line": (b"@a,1\nexternal_id,score\n", {"@a": "1.00"}, [(2, "external_id", "score", INVALID)]),
    "moments": (
        b"@a,1,2026-01-31T12:00:00Z\n@b,1,2026-01-31t12:00:00.123456+05:30\n@c,1,2026-02-30T00:00:00Z\n"
        b"@d,1,2026-01-31\n@e,1,yesterday\n@f,1,9999-12-31T23:59:59-12:00\n@g,1,2026-01-31T24:00:00Z\n",
        {"@a": "1.00", "@b": "1.00"},
        [(line, f"@{name}", "preapproved_at", INVALID) for line, name in enumerate("cdefg", 3)],
    ),
    "scores": (
        b"@a,-1\n@b,1.234\n@c,1e5\n@d,12345678901\n@e,01\n@f,\n@g,NaN\n@h,9999999999.99\n@i,1.\n",
        {"@h": "9999999999.99"},
        [(line, f"@{name}", "score", INVALID) for line, name in zip((1, 2, 3, 4, 5, 6, 7, 9), "abcdefgi", strict=True)],
    ),
    "ids": (
        b"@" + b"x" * 60 + b",1\n.@a,1\n@a/b,1\n,1\n\xc3\xa9@a,1\n",
        {},
        [
            (1, ("@" + "x" * 60), "external_id", INVALID),
            (2, ".@a", "external_id", INVALID),
            (3, "@a/b", "external_id", INVALID),
            (4, "", "external_id", INVALID),
            (5, "é@a", "external_id", INVALID),
        ],
    ),
    "columns": (
        b'@a\n@b,1,,\n@c,1,2026-01-01T00:00:00Z,x\n"@d,1\n@e"x,1\n"@f"x,1\n',
        {},
        [(line, name, "", MALFORMED) for line, name in enumerate(("@a", "@b", "@c", '"@d', '@e"x', '"@f"x'), 1)],
    ),
    "bytes that are not utf-8": (
        b"@a,1\n@b\xff,1\n@c,\xe9\n@d,1\n",
        {"@a": "1.00", "@d": "1.00"},
        [(2, "@b\ufffd", "", NOT_TEXT), (3, "@c", "", NOT_TEXT)],
    ),
    "control characters": (
        b"@a\x00,1\n@b,1\x1f\n@c,1\x0b\n\x1eline\x1f@e\n",
        {},
        [(line, name, "", NOT_TEXT) for line, name in enumerate(("@a", "@b", "@c", "line@e"), 1)],
    ),
    "line ends of a mac": (
        b"external_id,score\r@a,1\r\r@b,x\r@c,2",
        {"@a": "1.00", "@c": "2.00"},
        [(4, "@b", "score", INVALID)],
    ),
    "line ends of all kinds": (
        b"@a,1\r@b,x\r\n@c,2\n\n\r@d,x",
        {"@a": "1.00", "@c": "2.00"},
        [(2, "@b", "score", INVALID), (6, "@d", "score", INVALID)],
    ),
    "names like archives": (
        b"BZh@a,1\nPK@b,1\n7z@c,1\nRar@d,1\n",
        {"BZh@a": "1.00", "PK@b": "1.00", "7z@c": "1.00", "Rar@d": "1.00"},
        [],
    ),
    "a header in another order": (
        b"preapproved_at,Score,external_id\n,5,@a\n2026-01-31T12:00:00Z,x,@b\n\xff,1,@c\n",
        {"@a": "5.00"},
        [(3, "@b", "score", INVALID), (4, "@c", "", NOT_TEXT)],
    ),
    "a header of two names": (
        b'score,external_id\n1,@a\n"2","@b",\n3,@c,2026-01-31T12:00:00Z\n4\n',
        {"@a": "1.00", "@b": "2.00"},
        [(4, "@c", "", MALFORMED), (5, "", "", MALFORMED)],
    ),
    "a spanish spreadsheet": (
        b'\xef\xbb\xbfexternal_id;score;preapproved_at;;\r\n@a;1.500,00;;;\r\n@b;0,5;2026-01-31T12:00:00Z\r\n'
        b'"@c";"12.345.678,9";;;\r\n@d;1500;\r\n@e;1500.50;\r\n@f;1.50;\r\n@g;15.00,00;\r\n@h,1;\r\n'
        b"@i;1.234.567.890.123,00\r\n@j;1;;;x\r\n",
        {"@a": "1500.00", "@b": "0.50", "@c": "12345678.90", "@d": "1500.00"},
        [
            *((line, f"@{name}", "score", INVALID) for line, name in enumerate("efg", 6)),
            (9, "@h,1", "external_id", INVALID),
            (10, "@i", "score", INVALID),
            (11, "@j", "", MALFORMED),
        ],
    ),
    "a spanish spreadsheet without a header": (
        b"@a;1.500,25\n@b;1,5\n@c,1\n",
        {"@a": "1500.25", "@b": "1.50"},
        [(3, "@c,1", "", MALFORMED)],
    ),
    "a spanish spreadsheet in another order": (b"score;external_id\n2.000;@a\n", {"@a": "2000.00"}, []),
    "the end of a copy": (b"@a,1\n\\.\n@b,1\n", {"@a": "1.00", "@b": "1.00"}, [(2, "\\.", "", MALFORMED)]),
    "repeated ids": (
        b"@a,1\n@a,2\n@b,x\n@b,3\n",
        {"@a": "1.00", "@b": "3.00"},
        [(2, "@a", "external_id", EXISTS), (3, "@b", "score", INVALID)],
    ),
    "a long line": (b"@a,1\n@b," + b"1" * 5000 + b"\n@c,1\n", {"@a": "1.00", "@c": "1.00"}, [(2, "@b", "", TOO_LONG)]),
    "a long line of quotes": (b"@a,1\n" + b'"' * 5000 + b"\n", {"@a": "1.00"}, [(2, '"' * 60, "", TOO_LONG)]),
    "nothing": (b"", {}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_each_line_is_imported_or_reported(door: Door, name: str) -> None:
    content, created, expected = FILES[name]
    prefix = new_id("c")
    found = upload(door, content.replace(b"@", prefix.encode()))
    assert found["state"] == "SUCCEEDED", found["failure"]
    assert counts(found) == (len(created) + len(expected), len(created), len(expected))
    assert found["bytes_done"] == found["bytes_total"]
    for external_id, score in created.items():
        customer = door("customers.GetCustomer", external_id=external_id.replace("@", prefix))
        assert (customer["score"], customer["status"]) == (score, "ACTIVE")
    reported = [
        (error["line_number"], error["external_id"], error["field"], error["reason"]) for error in errors(door, found["id"])
    ]
    assert reported == [(line, text.replace("@", prefix)[:60], *rest) for line, text, *rest in expected]
    assert all(error["message"] for error in errors(door, found["id"]))


# A file that ends its import as a whole, and what the reason says.
UNREADABLE = {
    "another column": (b"external_id,total_debt\n@a,1\n", '"total_debt"'),
    "a column more": (b"external_id,score,name\n@a,1,x\n", '"name"'),
    "a column less": (b"external_id,preapproved_at\n@a,\n", '"score"'),
    "no id": (b"score;preapproved_at\n1;\n", '"external_id"'),
    "a column twice": (b"score,external_id,score\n1,@a,2\n", '"score" twice'),
    "one column": (b"external_id\n@a\n", '"score"'),
    "only a header": (b"external_id,score\n", "no line"),
    "only blank lines": (b" \r\n\t\r", "no line"),
    "utf-16": ("c,1\n".encode("utf-16"), "UTF-8"),
    "an old spreadsheet": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "CSV"),
    "bzip2": (bz2.compress(b"c,1\n"), "archive"),
    "bzip2 of nothing": (bz2.compress(b""), "archive"),
    "gzip": (gzip.compress(b"c,1\n"), "archive"),
    "xz": (lzma.compress(b"c,1\n"), "archive"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_as_a_whole_says_why_and_creates_nothing(door: Door, name: str) -> None:
    content, reason = UNREADABLE[name]
    found = upload(door, content.replace(b"@", new_id("c").encode()))
    assert (found["state"], counts(found)) == ("FAILED", (0, 0, 0))
    assert reason in found["failure"]


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"])
def test_a_line_may_end_where_a_chunk_does(over_grpc: GrpcDoor, end: bytes) -> None:
    prefix = new_id("c").encode()
    first = prefix + b"a,1" + end
    blank = b" " * (MIB - len(first) - 1)
    found = upload(over_grpc, first + blank + end + b"x" * (2 * MIB - 1) + end + prefix + b"b,x")
    assert counts(found) == (3, 1, 2)
    assert [(error["line_number"], error["reason"]) for error in errors(over_grpc, found["id"])] == [
        (3, TOO_LONG),
        (4, INVALID),
    ]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('attachment; filename="customers of may.csv"', "customers of may.csv"),
        ("attachment; filename*=UTF-8''cr%C3%A9ditos%20de%20mayo.csv", "créditos de mayo.csv"),
        (r'attachment; filename="C:\\folder\\may.csv"', "may.csv"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment", ""),
        ("attachment; filename*=may.csv; filename*1=june.csv", ""),
    ],
)
def test_the_files_name_is_kept(door: Door, sent: str, kept: str) -> None:
    found = upload(door, b"x\n", disposition=sent)
    assert found["file_name"] == kept
    assert door("imports.GetImport", id=found["id"])["file_name"] == kept
    assert door("imports.CreateImport", source=found["source"])["file_name"] == found["source"].rpartition("/")[2]


def test_a_moment_is_kept(over_grpc: GrpcDoor) -> None:
    prefix = new_id("c")
    upload(over_grpc, f"{prefix}a,1,2026-01-31T12:00:00.5+05:30\n{prefix}b,1,\n".encode())
    assert over_grpc("customers.GetCustomer", external_id=f"{prefix}a")["preapproved_at"] == "2026-01-31T06:30:00.500Z"
    assert "preapproved_at" not in over_grpc("customers.GetCustomer", external_id=f"{prefix}b")


def test_uploading_a_file_again_creates_nothing_twice(door: Door) -> None:
    prefix = new_id("c")
    content = "".join(f"{prefix}-{n},{n}\n" for n in range(100)).encode()
    assert counts(upload(door, content)) == (100, 100, 0)
    again = upload(door, content)
    assert counts(again) == (100, 0, 100)
    assert {error["reason"] for error in errors(door, again["id"])} == {EXISTS}


def test_a_customer_of_another_call_is_that_lines_error(door: Door) -> None:
    customer = a_customer(door, "7")
    found = upload(door, f"{customer},1\n".encode())
    assert counts(found) == (1, 0, 1)
    assert door("customers.GetCustomer", external_id=customer)["score"] == "7.00"


def test_when_every_line_is_wrong_every_one_is_reported_once_and_in_order(door: Door) -> None:
    found = upload(door, b"".join(b"%d,x\n" % n for n in range(2500)))
    assert counts(found) == (2500, 0, 2500)
    assert [error["line_number"] for error in errors(door, found["id"], 700)] == list(range(1, 2501))


def test_a_page_token_belongs_to_its_import(over_grpc: GrpcDoor) -> None:
    first, second = (upload(over_grpc, b"x\ny\n") for _ in range(2))
    token = over_grpc("imports.ListImportErrors", id=first["id"], page_size=1)["next_page_token"]
    with pytest.raises(Refused) as refused:
        over_grpc("imports.ListImportErrors", id=second["id"], page_token=token)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_a_line_of_ten_megabytes_is_one_error(door: Door) -> None:
    prefix = new_id("c").encode()
    found = upload(door, prefix + b"a,1\n" + b"x" * 10_000_000 + b"\n" + prefix + b"b,1\n")
    assert counts(found) == (3, 2, 1)
    [error] = errors(door, found["id"])
    assert (error["line_number"], error["reason"]) == (2, TOO_LONG)
    found = upload(door, b"x" * 3_000_000)
    assert counts(found) == (1, 0, 1)
    assert found["bytes_done"] == "3000000"


def test_an_archive_is_refused_as_a_whole(door: Door) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("customers.txt", "a,1\n" * 1000)
    found = upload(door, packed.getvalue())
    assert (found["state"], counts(found)) == ("FAILED", (0, 0, 0))
    assert "archive" in found["failure"]


def test_a_fault_of_the_service_ends_the_import_and_tells_no_more(stack: Stack, over_rest: RestDoor) -> None:
    prefix = new_id("c")
    with owner(stack.data_dir) as connection:
        connection.execute(f"""
            CREATE FUNCTION refuse_import() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poisoned'; END $$;
            CREATE TRIGGER poison BEFORE INSERT ON customers FOR EACH ROW WHEN (NEW.external_id = '{prefix}')
            EXECUTE FUNCTION refuse_import()
        """)
        connection.commit()
        try:
            found = upload(over_rest, f"{prefix}-a,1\n{prefix},1\n".encode())
        finally:
            connection.execute("DROP FUNCTION refuse_import CASCADE")
    assert (found["state"], counts(found)) == ("FAILED", (0, 0, 0))
    assert found["failure"] == "The service failed; its log tells more."
    with pytest.raises(Refused) as refused:
        over_rest("customers.GetCustomer", external_id=f"{prefix}-a")
    assert refused.value.reason == "CUSTOMER_NOT_FOUND", "a chunk is created whole, or not at all"


def test_the_database_itself_keeps_the_counts_right(stack: Stack, over_rest: RestDoor) -> None:
    found = upload(over_rest, b"x\n")
    with owner(stack.data_dir) as connection, pytest.raises(Exception, match="imports_counts_check"):
        connection.execute("UPDATE imports SET created_count = 1 WHERE id = %s", [found["id"]])
