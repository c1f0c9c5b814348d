"""What several test files need."""

import contextlib
import io
import signal

import pytest

def call(module, argv):
    """(exit code, stdout, stderr) of a script's main in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            module.main(argv)
            code = 0
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()

@pytest.fixture(autouse=True)
def signals():
    """main leaves its signal handlers behind: put back what was there."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)
