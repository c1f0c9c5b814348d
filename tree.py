"""The search tree of one puzzle of `countdown`: what a beam looks at, and what it keeps.

search.py --show prints it, and plots.py draws it. Beside the model's verdict on each state stands
the truth, which the exact solver knows.
"""

from dataclasses import dataclass, field
from typing import Optional

import torch

from countdown import can_reach, first_of_each, legal_moves, step_as_text


@dataclass
class Node:
    """A state of the tree."""
    numbers: tuple              # what is left, sorted
    step: str = ''              # the move that led here, '3 + 8 = 11'
    parent: Optional['Node'] = field(default=None, repr=False)
    children: list = field(default_factory=list, repr=False)  # nodes, the best verdict first
    probability: float = 1.0    # the verdict: how likely the target can still be made
    is_solvable: bool = True    # the truth
    is_kept: bool = True        # on the beam, so that its moves are looked at

    def label(self):
        return ' '.join(str(number) for number in self.numbers)


# -----------------------------------------------------------------------------
# the tree

def grow_tree(puzzle, target, width, log_odds):
    """The tree of a beam of this width, as search.beam_search goes through it: its root, a Node.

    puzzle: a list of integers. log_odds(states (N, m)) -> (N,): the model's log-odds of 'yes'. A
    state that several states of the beam lead to hangs below the one with the best verdict. After
    the last move only the target is a node.
    """
    root = Node(tuple(sorted(puzzle)))
    judge([root], target, log_odds)
    beam = [root]
    for _ in range(len(puzzle) - 2):
        children = children_of(beam)
        judge(children, target, log_odds)
        children.sort(key=lambda node: (-node.probability, node.numbers))
        for node in children[width:]:
            node.is_kept = False
        hang_below_parents(children)
        beam = children[:width]

    # Two numbers are left. The rules of the game say which moves make the target.
    for state in beam:
        solutions = [node for node in children_of([state]) if node.numbers == (target,)]
        hang_below_parents(solutions)
    return root


def children_of(beam):
    """The states one move away from those of the beam (nodes of m numbers), each once."""
    states = torch.tensor([node.numbers for node in beam])
    child, legal, step = legal_moves(states)
    nodes = {}
    for i, move in first_of_each(child, legal).nonzero().tolist():
        numbers = tuple(child[i, move].tolist())
        if numbers not in nodes:
            nodes[numbers] = Node(numbers, step_as_text(step[i, move]), parent=beam[i])
    return list(nodes.values())


def judge(nodes, target, log_odds):
    """Write verdict and truth into nodes, all of m numbers."""
    if not nodes:
        return
    states = torch.tensor([node.numbers for node in nodes])                 # (N, m)
    probability = log_odds(states).double().sigmoid()  # in float32 large ones would be equal
    is_solvable = can_reach(states, torch.full((len(nodes),), target))
    for node, p, truth in zip(nodes, probability.tolist(), is_solvable.tolist(), strict=True):
        node.probability = p
        node.is_solvable = truth


def hang_below_parents(nodes):
    for node in nodes:
        node.parent.children.append(node)


def levels(root):
    """The nodes by depth, each level with the best verdict first: a list of lists."""
    level = [root]
    while level:
        yield level
        level = [child for node in level for child in node.children]
        level.sort(key=lambda node: (-node.probability, node.numbers))


def first_solution(root):
    """The steps to the first node of the target, as text. [] if the beam did not find it."""
    *_, last_level = levels(root)
    node = last_level[0]
    if len(node.numbers) > 1:
        return []
    steps = []
    while node.parent is not None:
        steps.append(node.step)
        node = node.parent
    return steps[::-1]


# -----------------------------------------------------------------------------
# as text

def tree_lines(node, depth=0):
    """A node and what is below it, a line for each state. States that were dropped are counted."""
    indent = '    ' * depth
    if len(node.numbers) == 1:
        return [f'{indent}{node.step}   the target']

    line = f'{indent}{node.step + "   " if node.step else ""}[{node.label()}]'
    truth = 'solvable' if node.is_solvable else 'not solvable'
    lines = [f'{line:42} verdict {node.probability:.3f}   {truth}']
    dropped = []
    for child in node.children:
        if child.is_kept:
            lines += tree_lines(child, depth + 1)
        else:
            dropped.append(child)
    if dropped:
        n_solvable = sum(child.is_solvable for child in dropped)
        lines.append(f'{indent}    ... {len(dropped)} dropped, {n_solvable} solvable, best verdict '
                     f'{dropped[0].probability:.3f}')
    return lines


# -----------------------------------------------------------------------------
# as a record of the log, from which plots.py draws it

def to_record(node):
    """A node and what is below it, as a dict that fits into JSON."""
    return dict(
        numbers=node.numbers,
        step=node.step,
        probability=node.probability,
        is_solvable=node.is_solvable,
        is_kept=node.is_kept,
        children=[to_record(child) for child in node.children])


def from_record(record, parent=None):
    """The Node that to_record has written."""
    facts = dict(record, numbers=tuple(record['numbers']), children=[])
    node = Node(**facts, parent=parent)
    node.children = [from_record(child, node) for child in record['children']]
    return node
