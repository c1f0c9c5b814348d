"""Oracles that read a task's text with plain loops: they share no code with the task files.

Then what the tests of all tasks need: a test of frequencies, and a reader of printed examples.
"""

import functools
import re
from fractions import Fraction
from itertools import combinations, product
from types import SimpleNamespace

from conftest import call


# -----------------------------------------------------------------------------
# the tasks of data.py

def read_prompt(task, words):
    """(what is given, what is asked) of a prompt, both as words.

    cycle, cvpr   ({node: successor}, [hop word, start])
    star          ({child: parent}, [centre, goal])
    multiply      ((first factor, second factor), ['='])
    parity        ((bit, bit, ...), [hop word])
    """
    if task.name == 'parity':
        assert len(words) == task.bits + 1 and set(words[:-1]) <= {'0', '1'}
        return tuple(words[:-1]), words[-1:]

    if task.name == 'multiply':
        at = words.index('*')
        return (''.join(words[:at]), ''.join(words[at + 1:-1])), words[-1:]

    if task.name == 'star':
        *edges, slash, centre, goal, equals = words
        assert slash == '/' and equals == '=' and set(edges[2::3]) <= {'|'}
        return dict(zip(edges[1::3], edges[0::3], strict=True)), [centre, goal]

    *graph, hop_word, start = words
    assert hop_word.startswith('k=')
    if task.format == 'pairs':
        assert len(graph) == 2 * task.nodes
        return dict(zip(graph[0::2], graph[1::2], strict=True)), [hop_word, start]
    assert len(graph) == task.nodes
    return {str(node): word for node, word in enumerate(graph)}, [hop_word, start]


def solve(task, words):
    """(chain, number of words in the answer, hops) of a prompt. The chain ends with the answer.

    Whatever a prompt of the task promises is asserted.
    """
    given, question = read_prompt(task, words)
    solvers = {'cycle': solve_cycle, 'cvpr': solve_cvpr, 'multiply': solve_multiply,
               'parity': solve_parity, 'star': solve_star}
    return solvers[task.name](task, given, question)


def solve_cycle(task, successor, question):
    hop_word, start = question
    hops = int(hop_word[2:])
    cycle = []
    node = start
    for _ in range(task.nodes):
        node = successor[node]
        cycle.append(node)
    assert len(set(cycle)) == task.nodes and node == start  # one single cycle
    return cycle[:hops], 1, hops


def solve_cvpr(task, content, question):
    hop_word, cell = question
    chain = [content[cell]]
    while int(chain[-1]) > int(cell):  # a pointer, not a value
        cell = chain[-1]
        chain.append(content[cell])
    assert len(chain) == int(hop_word[2:])
    return chain, 1, len(chain)


def solve_multiply(task, factors, question):
    a, b = factors
    N = task.digits
    assert len(a) == len(b) == N and '0' not in (a[0], b[0])
    chain = []
    total = 0
    for j in range(N):
        partial = int(a) * int(b[N - 1 - j])
        total += partial * 10**j
        for number, width in ((partial, N + 1), (total, N + 1 + j)):
            digits = f'{number:0{width}d}'
            assert len(digits) == width
            chain += digits if task.reverse else digits[::-1]
    assert total == int(a) * int(b)
    return chain, 2 * N, N


def solve_parity(task, bits, question):
    hops = int(question[0].removeprefix('k='))
    chain = []
    for k in range(1, hops + 1):
        chain.append('1' if bits[:k].count('1') in range(1, 99, 2) else '0')
    return chain, 1, hops


def solve_star(task, parent, question):
    centre, goal = question
    ends = [node for node in parent if node not in parent.values()]
    assert len(ends) == task.arms and goal in ends
    assert list(parent.values()).count(centre) == task.arms

    paths = {}
    for end in ends:
        paths[end] = [end]
        while paths[end][-1] != centre:
            paths[end].append(parent[paths[end][-1]])
        assert len(paths[end]) == task.length
    path = paths[goal]
    return path if task.reverse else path[::-1], task.length, task.length - 1


# -----------------------------------------------------------------------------
# countdown

def is_allowed(number):
    """May this number appear on the way, if all numbers must be integers from 0 to 199?"""
    return number.denominator == 1 and 0 <= number <= 199


@functools.cache
def values(numbers, integers=True):
    """All that can be made of a tuple of numbers, each used once, as a set of Fractions.

    Splits an expression in two, where countdown.py makes moves.
    integers: every number on the way is an integer from 0 to 199.
    """
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    made = set()
    for size in range(1, len(numbers) // 2 + 1):
        for left in combinations(range(len(numbers)), size):
            right = [i for i in range(len(numbers)) if i not in left]
            of_left = values(tuple(numbers[i] for i in left), integers)
            of_right = values(tuple(numbers[i] for i in right), integers)
            for a, b in product(of_left, of_right):
                made |= {a + b, a - b, b - a, a * b}
                if b != 0:
                    made.add(a / b)
                if a != 0:
                    made.add(b / a)
    if integers:
        return {number for number in made if is_allowed(number)}
    return made


@functools.cache
def children(state, integers=True):
    """The states, sorted tuples, that one move makes of this one."""
    states = set()
    for i, j in combinations(range(len(state)), 2):
        rest = [state[k] for k in range(len(state)) if k not in (i, j)]
        for a, b in ((state[i], state[j]), (state[j], state[i])):
            results = [a + b, a - b, a * b]
            if b != 0:
                results.append(Fraction(a) / b)
            for c in results:
                if not integers or is_allowed(c):
                    states.add(tuple(sorted((*rest, c))))
    return states


def count_sequences(state, target, integers=True):
    """How many sequences of states lead from this one to the target."""
    if len(state) == 1:
        return int(state[0] == target)
    return sum(count_sequences(child, target, integers) for child in children(state, integers))


# -----------------------------------------------------------------------------
# what the tests of all tasks need

def is_near(count, n, share, sd=5):
    """Is `count` of n draws within sd standard deviations of n * share?"""
    return abs(count - n * share) < sd * (n * share * (1 - share)) ** 0.5


def raw_examples(module, argv):
    """The lines that a task file prints with --raw."""
    code, out, err = call(module, [*argv, '--raw'])
    assert code == 0 and err == ''
    return out.splitlines()


def examples(module, argv):
    """What a task file prints: its first line, and a list of examples.

    Each has words, carries_loss (one bool a word), answer, oracle (lists of words), chance (text).
    """
    code, out, err = call(module, argv)
    assert code == 0 and err == ''
    head, *lines = [line for line in out.splitlines() if line]
    assert head.endswith('[brackets] mark the tokens that carry loss')

    shown_examples = []
    for shown, truth in zip(lines[::2], lines[1::2], strict=True):
        answer, oracle, chance = re.fullmatch(
            r'  answer (.*)   oracle (.*)   chance (.*)', truth).groups()
        words = shown.split()
        shown_examples.append(SimpleNamespace(
            words=[word.strip('[]') for word in words],
            carries_loss=[word.startswith('[') for word in words],
            answer=answer.split(),
            oracle=oracle.split(),
            chance=chance))
    return head, shown_examples


def is_refused(module, argv):
    """Does this command line end with exit code 2 and one line on stderr, and print nothing?"""
    code, out, err = call(module, argv)
    is_one_line = err.count('\n') == 1 and err.endswith('\n') and 'Traceback' not in err
    return code == 2 and out == '' and is_one_line
