"""A maze read from its text with plain loops: shares no code with maze.py."""

import re


CELL = r'\((\d+),(\d+)\)'
MOVES = {'U': (-1, 0), 'L': (0, -1), 'D': (1, 0), 'R': (0, 1)}


def read_maze(text):
    """(passages, origin, target, path) of one line of maze text in either format.

    Cells are (row, column). A passage is a frozenset of two cells.
    """
    if text.startswith('<ADJLIST_START>'):
        passages, origin, target = read_adjacency_list(text)
    else:
        passages, origin, target = read_grid(text)
    assert text.endswith(' <PATH_END>')
    path = re.findall(CELL, text.split('<PATH_START>')[1])
    path = [to_cell(words) for words in path]

    # every passage once, between neighbours
    assert len(set(passages)) == len(passages)
    for (row, column), (other_row, other_column) in passages:
        assert abs(row - other_row) + abs(column - other_column) == 1
    return set(passages), origin, target, path


def read_adjacency_list(text):
    maze, rest = text.removeprefix('<ADJLIST_START> ').split(' <ADJLIST_END> ')
    assert rest.startswith('<ORIGIN_START> ')
    pairs = re.findall(CELL + r'(?: <-->)? ' + CELL, maze)
    assert len(re.findall(CELL, maze)) == 2 * len(pairs)  # no cell outside a pair
    passages = [frozenset((to_cell(pair[:2]), to_cell(pair[2:]))) for pair in pairs]

    ends = []
    for word in ('ORIGIN', 'TARGET'):
        (found,) = re.findall(f'<{word}_START> {CELL} <{word}_END>', rest)
        ends.append(to_cell(found))
    return passages, *ends


def read_grid(text):
    *sides, origin, target = text.split(' <PATH_START>')[0].split()
    n = round(len(sides) ** 0.5)
    assert n * n == len(sides)

    # the order of cells: from the corner outwards, shell by shell
    order = [(0, 0)]
    for k in range(1, n):
        for i in range(k):
            order += [(i, k), (k, i)]
        order.append((k, k))

    steps = []
    for (row, column), word in zip(order, sides, strict=True):
        for letter in word:
            down, right = MOVES[letter]
            steps.append(((row, column), (row + down, column + right)))
    assert sorted(steps) == sorted((b, a) for a, b in steps)  # open from both sides
    passages = [frozenset(step) for step in steps if step[0] < step[1]]
    return passages, to_cell(re.findall(CELL, origin)[0]), to_cell(re.findall(CELL, target)[0])


def to_cell(words):
    row, column = words
    return int(row), int(column)


def distances_from(passages, target):
    """{cell: steps to the target}, of every cell from which it can be reached."""
    distance = {target: 0}
    queue = [target]
    for cell in queue:
        for passage in passages:
            if cell in passage:
                (other,) = passage - {cell}
                if other not in distance:
                    distance[other] = distance[cell] + 1
                    queue.append(other)
    return distance
