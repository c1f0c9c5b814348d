"""Two processes of one run, as torchrun starts them. They stay, and take one command after another:
to import torch takes each of them longer than a tiny run.

    with TwoProcesses() as run:
        done = run('train_cot.py', '--steps', '2')

is what `torchrun --standalone --nproc_per_node=2 train_cot.py --steps 2` does. `python -c` works,
too. Each command finds the modules of this project as if nobody had imported them before.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace


ROOT = Path(__file__).resolve().parent.parent
SECONDS = 200  # for a command


# -----------------------------------------------------------------------------
# in the process of the tests

class TwoProcesses:

    def __init__(self):
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        codes = self.stop()
        assert error[0] is not None or codes in ([], [0, 0]), 'a process could not end'

    def __call__(self, *argv):
        """Returns returncode, stdout and stderr of both processes together."""
        if not self.processes:
            self.start()
        order = dict(argv=[str(arg) for arg in argv], port=free_port())
        watch = threading.Timer(SECONDS, self.kill)
        watch.start()
        try:
            for process in self.processes:
                process.stdin.write(json.dumps(order) + '\n')
                process.stdin.flush()
            lines = [process.stdout.readline() for process in self.processes]
        finally:
            watch.cancel()
            watch.join()

        # one that died, or that may have left something, is not used again
        if not all(lines):
            codes = self.stop()
            raise RuntimeError(f'a process died: exit codes {codes}')
        answers = [json.loads(line) for line in lines]
        if not all(answer['is_clean'] for answer in answers):
            self.stop()
        return SimpleNamespace(
            returncode=max(answer['code'] for answer in answers),
            stdout=''.join(answer['stdout'] for answer in answers),
            stderr=''.join(answer['stderr'] for answer in answers))

    def start(self):
        for rank in ('0', '1'):
            env = os.environ | dict(WORLD_SIZE='2', RANK=rank, LOCAL_RANK=rank)
            self.processes.append(subprocess.Popen(
                [sys.executable, __file__], cwd=ROOT, env=env, text=True, encoding='utf-8',
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def kill(self):
        for process in self.processes:
            process.kill()

    def stop(self):
        """End both; returns their exit codes."""
        codes = []
        for process in self.processes:
            with contextlib.suppress(OSError):  # it has ended before
                process.stdin.close()
        for process in self.processes:
            try:
                codes.append(process.wait(timeout=20))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
            process.stdout.close()
        self.processes = []
        return codes


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


# -----------------------------------------------------------------------------
# in each of the two processes

def serve():
    """A command a line on stdin, its result a line on what was stdout at the start."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    nothing = os.open(os.devnull, os.O_RDWR)
    orders = os.fdopen(os.dup(0), encoding='utf-8')
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    sys.path[0] = str(ROOT)
    environment = dict(os.environ)

    for line in orders:
        order = json.loads(line)
        os.environ.clear()
        os.environ.update(environment, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(order['port']))
        answer = run_command(order['argv'])
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


def run_command(argv):
    """Run it as Python's command line does, and catch all that it writes."""
    forget_modules()
    outputs = {}
    with contextlib.ExitStack() as stack:
        for number, name in ((1, 'stdout'), (2, 'stderr')):
            outputs[name] = stack.enter_context(caught(number))
        code = run_main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
    distributed = sys.modules.get('torch.distributed')
    is_clean = distributed is None or not distributed.is_initialized()
    return dict(code=code, is_clean=is_clean,
                stdout=''.join(outputs['stdout']), stderr=''.join(outputs['stderr']))


def run_main(argv):
    """The exit code of a script, or of what follows -c."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    script, *rest = argv
    try:
        if script == '-c':
            sys.argv = ['-c', *rest[1:]]
            exec(compile(rest[0], '<string>', 'exec'), {'__name__': '__main__'})
        else:
            sys.argv = argv
            runpy.run_path(script, run_name='__main__')
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def caught(number):
    """A list that holds, at the end, the text written to this file descriptor."""
    text = []
    before = os.dup(number)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), number)
        try:
            yield text
        finally:
            os.dup2(before, number)
            os.close(before)
            file.seek(0)
            text.append(file.read().decode('utf-8', 'replace').replace('\r\n', '\n'))


def forget_modules():
    """Those of this project: a command may have changed them."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, '__file__', None)
        if name != '__main__' and path and Path(path).resolve().parent == ROOT:
            del sys.modules[name]


if __name__ == '__main__':
    serve()
