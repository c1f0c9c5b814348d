"""What several test files need."""

import contextlib
import io


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
