"""Expected errors of a script are one line on stderr and an exit code. Bugs keep their traceback.

    exit code 0    all is well
              1    the run failed: diverged, disk full or another system error, out of memory
              2    bad input: a ValueError
              130  stopped by Ctrl-C; 128 + n by signal n

A script imports this file before all others. Importing torch takes seconds, and Ctrl-C during that
time ends in one line, too.

From Python nothing changes: functions raise ValueError, or RunEnded for a run that cannot go on.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
from pathlib import Path


class RunEnded(Exception):
    """A run that cannot go on.

    exit_code: 1 if it failed, 128 + n if signal n stopped it.
    any_rank: every process that raises it prints the message, not only rank 0.
    """

    def __init__(self, message, exit_code=1, any_rank=False):
        super().__init__(message)
        self.exit_code = exit_code
        self.any_rank = any_rank


# -----------------------------------------------------------------------------
# Ctrl-C where there is nothing to save: while modules are imported, and after the last line

def leave_on_ctrl_c(number, frame):
    """Print one line and exit. The module that is being imported could catch an exception."""
    os.write(2, f'\n{script_name()}: stopped by Ctrl-C\n'.encode())
    os._exit(130)


REPLACEABLE = (signal.default_int_handler, leave_on_ctrl_c)


def set_ctrl_c_handler(handler):
    """Set the handler of Ctrl-C, unless the caller has one of its own. Only the main
    thread can."""
    can_set = threading.current_thread() is threading.main_thread()
    if can_set and signal.getsignal(signal.SIGINT) in REPLACEABLE:
        signal.signal(signal.SIGINT, handler)


def script_name():
    return Path(sys.argv[0] if sys.argv else 'python').name


def is_one_of_ours(path):
    """Does this script end in one_line_errors(), which takes the handler away again?"""
    is_here = path.suffix == '.py' and path.resolve().parent == Path(__file__).resolve().parent
    return is_here and path.is_file() and b'with one_line_errors():' in path.read_bytes()


if sys.argv and is_one_of_ours(Path(sys.argv[0])):
    set_ctrl_c_handler(leave_on_ctrl_c)


# -----------------------------------------------------------------------------
# one line

@contextlib.contextmanager
def one_line_errors():
    """For the command line: what goes wrong inside is one line, and the process ends."""
    before = signal.getsignal(signal.SIGINT)
    set_ctrl_c_handler(signal.default_int_handler)  # it raises KeyboardInterrupt
    open_streams()
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        exit_with(f'\n{script_name()}: stopped by Ctrl-C', 130)
    except BrokenPipeError:  # `python ... | head`, and head has closed the pipe
        exit_with('', 1)
    except Exception as error:
        exit_code = exit_code_of(error)
        if exit_code is None:
            raise  # a bug: the traceback helps
        speaks = os.environ.get('RANK', '0') == '0' or getattr(error, 'any_rank', False)
        speaks = speaks or isinstance(error, OSError) or is_out_of_memory(error)
        message = ' '.join(message_of(error).split())
        exit_with(f'{script_name()}: {message}' if speaks else '', exit_code)
    finally:
        set_ctrl_c_handler(before)


def open_streams():
    """Where stdout is closed, print to nowhere. Letters that it does not know become escapes."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
        elif hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def exit_with(message, exit_code):
    """Print the line, make sure that nothing else is printed, and leave."""
    if message:
        with contextlib.suppress(OSError):
            text = message.encode('utf-8', 'backslashreplace').decode()
            print(text, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads stdout any more, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


def exit_code_of(error):
    """1 or 2 or another exit code. None for an exception that only a bug can raise."""
    if isinstance(error, ValueError):
        return 2
    if isinstance(error, OSError) or is_out_of_memory(error) or is_lost_connection(error):
        return 1
    return getattr(error, 'exit_code', None)


def message_of(error):
    """What the line says."""
    if is_out_of_memory(error):
        return f'out of memory{place_of(error)}: lower --batch_size, or the size of the task'
    if is_lost_connection(error):
        return 'another process of this run has ended'
    if isinstance(error, OSError):
        name = '' if error.filename is None else f'{error.filename}: '
        return f'{name}{error.strerror or error}'
    return f'{error}{place_of(error)}'


OUT_OF_MEMORY = re.compile(  # in the messages of RuntimeErrors of torch, on each kind of device
    r'DefaultCPUAllocator|(can.t|cannot) allocate memory|not enough memory|out of memory|bad_alloc'
    r'|ALLOC_FAILED|Storage size calculation overflowed', re.IGNORECASE)


def is_out_of_memory(error):
    """Does this exception say that there was no memory left, of the machine or of its GPU?"""
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':  # torch's
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def is_lost_connection(error):
    """Under torchrun: is a process gone that this one waits for?"""
    text = str(error)
    is_lost = 'Connection closed by peer' in text or 'Connection reset by peer' in text
    return isinstance(error, RuntimeError) and is_lost


def place_of(error):
    """Where an unexpected exception comes from, such as a bug in a task of your own: ' (in write,
    sum_task.py, line 24)'. '' for errors that are raised on purpose, by require or raise."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    on_purpose = last.name == 'require' or (last.line or '').startswith('raise')
    if on_purpose:
        return ''
    return f' (in {last.name}, {Path(last.filename).name}, line {last.lineno})'
