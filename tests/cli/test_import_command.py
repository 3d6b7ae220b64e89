"""`mo-grpc import`, as somebody at a terminal sees it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.conftest import Stack, run_cli
from tests.factories import new_id
from tests.imports.files import LINES, large


def in_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run `mo-grpc` in a terminal of 120 columns; answers its exit status, and all that it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "mo_grpc", *arguments]
    shown = b""
    with subprocess.Popen(command, env=environment | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:
                break
            if not block:
                break
            shown += block
        os.close(ours)
        status = process.wait(60)
    return status, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def test_the_command_shows_how_far_it_is_and_what_was_wrong(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    file.write_bytes(large() + b"x;=cmd,x\n")
    status, shown = in_a_terminal(stack.environment, "import", str(file))
    assert status == 1
    for text in ("Uploading", "Importing", "100%", "lines", "/s"):
        assert text in shown
    assert (
        f"of customers.csv SUCCEEDED: {LINES * 99 // 100:,} created, {LINES // 100 + 1:,} wrong of {LINES + 1:,} lines."
        in shown
    )
    report = (tmp_path / "customers.csv.errors.csv").read_text().splitlines()
    assert report[0] == '"line_number","external_id","field","reason","message"'
    assert len(report) == LINES // 100 + 2
    assert report[-1].startswith(f'{LINES + 1},"x;\'=cmd","external_id","INVALID_VALUE",')


def test_the_command_is_content_with_a_good_file(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "customers.txt"
    file.write_text(f"{new_id('c')},1\n")
    (tmp_path / "customers.txt.errors.csv").write_text("of an earlier run")
    done = run_cli(stack.environment | {"MO_API_KEY": stack.api_key}, "import", str(file))
    assert re.fullmatch(r"Import \d+ of customers\.txt SUCCEEDED: 1 created, 0 wrong of 1 lines\.\n", done.stdout)
    assert not (tmp_path / "customers.txt.errors.csv").exists()
    refused = run_cli(stack.environment | {"MO_API_KEY": "mo_wrong"}, "import", str(file), check=False)
    assert (refused.returncode, refused.stderr.strip().splitlines()[-1]) == (1, "The import stopped: The API key is not valid.")
