"""What several test files need."""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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

def two_processes(*argv):
    """What `torchrun --standalone --nproc_per_node=2 script ...` starts, without the seconds that its launcher takes: returncode, stdout and stderr of both."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = os.environ | dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    ranks = [subprocess.Popen([sys.executable, *map(str, argv)], cwd=Path(__file__).parent.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=env | {'RANK': str(rank), 'LOCAL_RANK': str(rank)}) for rank in (0, 1)]
    out, err = zip(*(process.communicate(timeout=200) for process in ranks), strict=True)
    return SimpleNamespace(returncode=max(abs(process.returncode) for process in ranks), stdout=''.join(out), stderr=''.join(err))

@pytest.fixture(autouse=True)
def signals():
    """main leaves its signal handlers behind: put back what was there."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)

def read_maze(text):
    """(edges, origin, target, path) of one line of maze text, adjlist or grid, cells as (row, column): plain loops, no shared code."""
    cell = r'\((\d+),(\d+)\)'
    if text.startswith('<ADJLIST_START>'):
        maze, rest = text.removeprefix('<ADJLIST_START> ').split(' <ADJLIST_END> ')
        found = [tuple(map(int, x)) for x in re.findall(cell + r'(?: <-->)? ' + cell, maze)]
        ends = [((a, b), (c, d)) for a, b, c, d in found]
        assert len(re.findall(cell, maze)) == 2 * len(ends) and rest.startswith('<ORIGIN_START> ')
        (origin,), (target,) = (re.findall(f'<{w}_START> {cell} <{w}_END>', rest) for w in ('ORIGIN', 'TARGET'))
    else:
        words, rest = text.split(' <PATH_START>')[0].split(), text
        *sides, origin, target = words
        origin, target = re.findall(cell, origin)[0], re.findall(cell, target)[0]
        n = round(len(sides) ** 0.5)
        assert n * n == len(sides)
        order = [(0, 0)]  # corner first: shell by shell, nearest to the axes first, row before column
        for k in range(1, n):
            order += [place for i in range(k) for place in ((i, k), (k, i))] + [(k, k)]
        move = {'U': (-1, 0), 'L': (0, -1), 'D': (1, 0), 'R': (0, 1)}
        ends = [((r, c), (r + move[s][0], c + move[s][1])) for (r, c), word in zip(order, sides, strict=True) for s in word]
        assert sorted(ends) == sorted((b, a) for a, b in ends)  # an open side is open from both sides
        ends = [e for e in ends if e[0] < e[1]]
    path = re.findall(cell, rest.split('<PATH_START>')[1])
    assert rest.endswith(' <PATH_END>') and len({frozenset(e) for e in ends}) == len(ends)
    for (a, b), (c, d) in ends:
        assert abs(a - c) + abs(b - d) == 1
    return {frozenset(e) for e in ends}, tuple(map(int, origin)), tuple(map(int, target)), [tuple(map(int, p)) for p in path]

def search_from(edges, target):
    """Steps to the target from every cell it can be reached from."""
    far, queue = {target: 0}, [target]
    for cell in queue:
        for edge in edges:
            if cell in edge:
                (other,) = edge - {cell}
                if other not in far:
                    far[other] = far[cell] + 1
                    queue.append(other)
    return far
