"""Task `maze`: find a shortest path in a lattice maze.

A maze has n x n cells with walls between them, an origin and a target. The model writes a shortest
path. Where several paths are shortest, any of them is right. Two formats show the same maze, here
for n = 2. [Brackets] mark the tokens that carry loss:

    --format grid       the open sides of each cell: Up, Left, Down, Right

        DR L UR L (1,1) (0,1) <PATH_START> [(1,1)] [(1,0)] [(0,0)] [(0,1)] [<PATH_END>]

    --format adjlist    a list of passages in random order and direction, the format AOTP_UT of
                        maze-dataset (Ivanitskiy et al. 2023, 2309.10498)

        <ADJLIST_START> (1,1) <--> (1,0) ; (0,0) <--> (0,1) ; (0,0) <--> (1,0) ; <ADJLIST_END>
        <ORIGIN_START> (1,1) <ORIGIN_END> <TARGET_START> (0,1) <TARGET_END>
        <PATH_START> [(1,1)] [(1,0)] [(0,0)] [(0,1)] [<PATH_END>]

A cell is (row, column), from the top left corner. Cells are numbered from that corner outwards:
(0,0) (0,1) (1,0) (1,1) (0,2) ... So a smaller maze has the first cells of a larger one.

The file has the generators, shortest paths, the two formats, and what an evaluation asks.

    python maze.py --n 3
    python maze.py --grid 2 --format grid --raw
"""

from errors import one_line_errors  # first: see errors.py

import numpy as np
import torch

from data import (
    Task,
    format_range,
    parse_range,
    positive_float,
    print_examples,
    require,
    sample_batch,
)


GENERATORS = ('dfs', 'wilson', 'percolation')
SIDES = ((-1, 0), (0, -1), (1, 0), (0, 1))      # up, left, down, right as (row, column)
SPECIAL = ['<ADJLIST_START>', '<ADJLIST_END>', '<ORIGIN_START>', '<ORIGIN_END>', '<TARGET_START>',
           '<TARGET_END>', '<PATH_START>', '<PATH_END>', '<-->', ';', '<PADDING>']


class Maze(Task):
    """Mazes of n x n cells. --grid 3-5 mixes sizes. The hop count of a maze is its size n.

    --gen dfs          a tree by randomised depth-first search: long corridors
    --gen wilson       a uniform random spanning tree (Wilson 1996): short dead ends
    --gen percolation  a dfs tree, in which each wall is opened with probability --percolation:
                       there are loops

    One in ten sets of passages is held out, whatever the origin, the target and the format.

    In shapes, N is the number of cells of the largest size. Arrays over cells have N + 1 entries:
    index N stands for "no cell", as beyond the outer wall.
    `instance` (B, 2, N + 1): the open sides of each cell as bits (1 up, 2 left, 4 down, 8 right),
    and its distance to the target, -1 if there is no way.
    """
    name = 'maze'
    flags = {
        'grid': dict(type=parse_range, help='cells on a side, or a range for a uniform mixture'),
        'gen': dict(choices=GENERATORS, help='how mazes are made'),
        'percolation': dict(type=positive_float, help='probability that a wall is opened, with '
                                                      '--gen percolation (default: 0.2)'),
        'format': dict(choices=('adjlist', 'grid'), help='how a maze is written'),
        'no_separators': dict(action='store_true', help='adjlist without <--> and ;'),
    }

    def __init__(self, grid=(4,), gen='dfs', percolation=None, format='adjlist',
                 no_separators=False):
        require(2 <= min(grid) <= max(grid) <= 30,
                f'grid must be from 2 to 30, got {format_range(grid)}')
        require(gen in GENERATORS and format in ('adjlist', 'grid'),
                f'gen is one of {", ".join(GENERATORS)}, format adjlist or grid; got {gen}, '
                f'{format}')
        require(percolation is None or (gen == 'percolation' and 0 < percolation < 1),
                '--percolation is between 0 and 1, and only for --gen percolation')
        require(format == 'adjlist' or not no_separators,
                '--no_separators is for --format adjlist')
        if gen == 'percolation' and percolation is None:
            percolation = 0.2
        n = max(grid)
        N = n * n
        self.grid = list(grid)
        self.hops = list(grid)
        self.gen = gen
        self.percolation = percolation
        self.format = format
        self.no_separators = no_separators

        # cells, numbered from the top left corner outwards
        cells = [(row, column) for row in range(n) for column in range(n)]
        cells.sort(key=lambda cell: (max(cell), min(cell), cell))
        number = {cell: i for i, cell in enumerate(cells)}
        self.cells = np.array(cells + [(-1, -1)], dtype=np.int64)  # (N + 1, 2) row, column

        # neighbour[cell, side]: the cell beyond that side, N if there is none. An index for torch,
        # so it must be int64. The default of numpy < 2 on Windows is int32.
        self.neighbour = np.full((N + 1, 4), N, dtype=np.int64)
        for row, column in cells:
            for side, (down, right) in enumerate(SIDES):
                beyond = (row + down, column + right)
                self.neighbour[number[row, column], side] = number.get(beyond, N)

        # words: the cells, the special tokens, and for the grid format the sets of open sides
        self.vocab = [f'({row},{column})' for row, column in cells] + SPECIAL
        if format == 'grid':
            for bits in range(1, 16):
                self.vocab.append(''.join(letter for i, letter in enumerate('ULDR')
                                          if bits >> i & 1))
        self.n_symbols = N
        self.path_start = N + SPECIAL.index('<PATH_START>')
        self.path_end = N + SPECIAL.index('<PATH_END>')
        self.pad = N + SPECIAL.index('<PADDING>')

        self.answer_len = N + 1                                  # every cell, and <PATH_END>
        self.longest_chain = N + 1
        if format == 'grid':
            prompt_len = N + 3
        else:
            most_passages = 2 * n * (n - 1) if gen == 'percolation' else N - 1
            prompt_len = 9 + most_passages * (2 if no_separators else 4)
        self.block_size = prompt_len + self.answer_len

    @property
    def draw_size(self):
        return 8 * self.n_symbols

    @property
    def write_size(self):
        return 12 * self.n_symbols + 5 * self.block_size

    # -------------------------------------------------------------------------
    # mazes

    def draw(self, rng, hops):
        """Random mazes with hops (B,) cells on a side, and two different cells as ends."""
        B = len(hops)
        n_cells = hops**2                                        # (B,)
        grow_tree = self.wilson if self.gen == 'wilson' else self.dfs
        parent = grow_tree(rng, hops)                            # (B, N + 1)

        # A passage is stored once, at its upper or left cell: (B, N, 2) says for each cell whether
        # it is open to the cell below and to the cell on the right.
        below_right = self.neighbour[:-1, 2:]                    # (N, 2) cells
        cell = np.arange(self.n_symbols)[:, None]
        passage = parent[:, :-1, None] == below_right            # the tree came from there
        passage |= parent[:, below_right] == cell                # or went there
        if self.percolation:
            passage |= rng.random(passage.shape) < self.percolation
        passage &= below_right < n_cells[:, None, None]          # stay inside a smaller maze

        origin, shift = (rng.random((2, B)) * (n_cells, n_cells - 1)).astype(int)
        target = (origin + 1 + shift) % n_cells                  # any cell but the origin

        # A wall is -1 in the key, which adds nothing to the hash. So the hash of a maze does not
        # depend on the other sizes of the task.
        passage = passage.reshape(B, -1).astype(int)
        key = passage - 1
        return key, np.column_stack((passage, origin, target))

    def dfs(self, rng, size):
        """Randomised depth-first search in all mazes at once: from which cell it came to each cell.

        size (B,): cells on a side. Returns (B, N + 1), -1 for the first cell.
        """
        N = self.n_symbols
        row = np.arange(len(size))
        cell = (rng.random(len(size)) * size**2).astype(int)     # a random start
        parent = np.full((len(size), N + 1), -1)
        visited = np.arange(N + 1) >= size[:, None]**2           # cells outside count as visited
        visited[row, cell] = True

        while not visited.all():
            beside = self.neighbour[cell]                        # (B, 4)
            unvisited = ~visited[row[:, None], beside]
            can_go_on = unvisited.any(axis=1)
            side = (rng.random(beside.shape) * unvisited).argmax(axis=1)
            new = np.where(can_go_on, beside[row, side], N)
            parent[row, new] = cell
            visited[row, new] = True
            cell = np.where(can_go_on, new, parent[row, cell])   # in a dead end: one cell back
        return parent

    def wilson(self, rng, size):
        """Uniform spanning trees by cycle popping (Wilson 1996), as `dfs` returns them.

        Every cell but the root, in the middle, points at a random neighbour. As long as there are
        cycles, all cells on cycles draw again. Neither the root nor the order in which cycles are
        popped changes the distribution. A root in the middle is reached soonest.
        """
        N = self.n_symbols
        parent = np.tile(np.arange(N + 1), (len(size), 1))
        middle = np.repeat(size // 2, 2).reshape(-1, 1, 2)       # (B, 1, 2) row, column
        is_root = (self.cells[:-1] == middle).all(axis=2)        # (B, N)
        is_inside = np.arange(N) < size[:, None]**2
        neighbour = np.sort(self.neighbour[:-1], axis=1)         # neighbours inside come first

        # A list of the cells of all mazes that are not in a tree yet. Its end, `tree`, stands for
        # all that are.
        maze, cell = (is_inside & ~is_root).nonzero()
        n_neighbours = (neighbour[cell] < size[maze, None]**2).sum(axis=1)
        tree = len(cell)
        place = self.places_in_list(maze, cell, len(size))
        pointer = np.full(tree + 1, tree)                        # to places in the list
        must_draw = np.arange(tree)

        while len(must_draw) > 0:
            # draw a neighbour
            side = (rng.random(len(must_draw)) * n_neighbours[must_draw]).astype(int)
            drawn = neighbour[cell[must_draw], side]
            parent[maze[must_draw], cell[must_draw]] = drawn
            pointer[must_draw] = place[maze[must_draw], drawn]

            # Follow the pointers for at least N steps, twice as far each time. Then every cell has
            # arrived in the tree, or on a cycle, and together they are on all cells of it.
            reached = pointer
            for _ in range(N.bit_length()):
                reached = reached.take(reached, mode='clip')  # clip: twice as fast as indexing
            pointer[reached == tree] = tree
            on_cycle = np.zeros(tree + 1, dtype=bool)
            on_cycle[reached] = True
            must_draw = on_cycle[:-1].nonzero()[0]

            # when half of the list is in the tree: a list of the others
            others = (pointer[:-1] < tree).nonzero()[0]
            if len(others) <= tree / 2:
                new_place = np.full(tree + 1, len(others))
                new_place[others] = np.arange(len(others))
                pointer = np.append(new_place[pointer[others]], len(others))
                must_draw = new_place[must_draw]
                maze = maze[others]
                cell = cell[others]
                n_neighbours = n_neighbours[others]
                tree = len(others)
                place = self.places_in_list(maze, cell, len(size))
        return parent

    def places_in_list(self, maze, cell, B):
        """Where each cell of B mazes stands in a list of cells, (B, N + 1). The list's length for
        those that are not in it."""
        place = np.full((B, self.n_symbols + 1), len(cell))
        place[maze, cell] = np.arange(len(cell))
        return place

    # -------------------------------------------------------------------------
    # shortest paths

    def distances(self, is_open, target):
        """Steps from every cell to the target (B,), -1 where no way leads: (B, N + 1).

        Breadth-first search in all mazes at once. is_open (B, N + 1, 4): the open sides of cells.
        """
        B = len(target)
        distance = np.full((B, self.n_symbols + 1), -1)
        maze = np.arange(B)                                      # the frontier: cells of mazes
        cell = target
        steps = 0
        while len(maze) > 0:
            distance[maze, cell] = steps
            steps += 1

            # the neighbours of the frontier ...
            i, side = is_open[maze, cell].nonzero()
            maze = maze[i]
            cell = self.neighbour[cell[i], side]

            # ... that were not reached before are the next frontier
            new = distance[maze, cell] < 0
            maze = maze[new]
            cell = cell[new]
            if self.percolation:  # with loops, a cell can be reached from two sides at once
                pair = np.unique(maze * distance.shape[1] + cell)
                maze, cell = np.divmod(pair, distance.shape[1])
        return distance

    def shortest_paths(self, rng, is_open, distance, origin):
        """A shortest path from the origin in each maze, a random one of them: (B, L), and its
        length in steps, (B,). After its end a path is filled up with <PATH_END>."""
        row = np.arange(len(origin))
        length = distance[row, origin]
        path = np.full((len(origin), length.max() + 2), self.path_end)
        cell = origin
        for t in range(length.max() + 1):
            path[:, t] = np.where(t <= length, cell, self.path_end)
            beside = self.neighbour[cell]                        # (B, 4)
            is_nearer = distance[row[:, None], beside] < distance[row, cell][:, None]
            choices = is_open[row, cell] & is_nearer
            side = (rng.random(choices.shape) * choices).argmax(axis=1)
            cell = np.where(t < length, beside[row, side], cell)
        return path, length

    # -------------------------------------------------------------------------
    # text

    def write(self, rng, source, hops):
        B = len(hops)
        N = self.n_symbols
        origin = source[:, -2]
        target = source[:, -1]
        passage = np.zeros((B, N + 1, 2), dtype=bool)            # down, right
        passage[:, :-1] = source[:, :-2].reshape(B, N, 2) > 0

        # A cell is open upwards if its upper neighbour is open downwards, and so on.
        up_left = passage[:, self.neighbour[:, :2], [0, 1]]
        is_open = np.concatenate((up_left, passage), axis=2)     # (B, N + 1, 4)
        distance = self.distances(is_open, target)
        path, length = self.shortest_paths(rng, is_open, distance, origin)

        open_bits = is_open @ [1, 2, 4, 8]                       # (B, N + 1)
        if self.format == 'grid':
            prompt = self.write_grid(open_bits, origin, target)
        else:
            prompt = self.write_adjacency_list(rng, passage[:, :-1], origin, target)
        instance = np.stack((open_bits, distance), axis=1)
        return prompt, path, length + 2, instance                # + the origin and <PATH_END>

    def read(self, prompt):
        cells = [token for token in prompt if token < self.n_symbols]
        require(len(cells) >= 2 and len(cells) % 2 == 0, 'it needs pairs of cells')
        *cells, origin, target = cells
        below_right = self.neighbour[:-1, 2:]                    # (N, 2) cells
        passage = np.zeros((self.n_symbols, 2), dtype=int)       # down, right
        if self.format == 'grid':
            sides = prompt[:-3]
            size = int(len(sides)**0.5)
            require(1 < size <= max(self.grid) and size**2 == len(sides),
                    f'it has {len(sides)} words for cells, not those of a square')
            for cell, word in enumerate(sides):
                letters = self.vocab[word]
                passage[cell] = ['D' in letters, 'R' in letters]
            passage[below_right >= size**2] = 0                  # nothing leads out of the maze
        else:
            require(cells, 'it needs passages')
            size = 1 + int(self.cells[cells].max())
            for a, b in zip(cells[::2], cells[1::2], strict=True):
                passage[a] |= below_right[a] == b
                passage[b] |= below_right[b] == a
        require(max(origin, target) < size**2, 'an end lies outside of the maze')
        return np.array([[*passage.ravel(), origin, target]]), np.array([size])

    def write_grid(self, open_bits, origin, target):
        """One token for the open sides of each cell, then origin and target: (B, N + 3)."""
        sides = np.where(open_bits > 0, self.pad + open_bits, -1)[:, :-1]
        path_start = np.full(len(origin), self.path_start)
        ends = np.stack((origin, target, path_start), axis=1)
        return np.concatenate((sides, ends), axis=1)

    def write_adjacency_list(self, rng, passage, origin, target):
        """The passages in random order and direction, then origin and target. -1: no token.

        passage (B, N, 2) bool: open downwards, to the right.
        """
        B = len(origin)
        flat = passage.reshape(B, -1)                            # (B, 2 N)
        n_listed = flat.sum(axis=1).max()

        # random order, with what is not a passage at the end
        sort_key = np.where(flat, rng.random(flat.shape), 1)
        order = sort_key.argsort(axis=1)[:, :n_listed]           # (B, E)
        is_passage = np.take_along_axis(flat, order, axis=1)

        # `cell <--> neighbour ;`, half of them the other way round
        cell = order // 2
        neighbour = self.neighbour[:-1, 2:].ravel()[order]
        swap = rng.random(order.shape) < 0.5
        first = np.where(swap, neighbour, cell)
        second = np.where(swap, cell, neighbour)
        if self.no_separators:
            words = (first, second)
        else:
            words = (first, self.special(order, '<-->'), second, self.special(order, ';'))
        words = np.stack(words, axis=2)                          # (B, E, 2 or 4)
        words[~is_passage] = -1

        frame = ['<ADJLIST_END>', '<ORIGIN_START>', origin, '<ORIGIN_END>', '<TARGET_START>',
                 target, '<TARGET_END>', '<PATH_START>']
        tail = [self.special(origin, x) if isinstance(x, str) else x for x in frame]
        head = self.special(origin, '<ADJLIST_START>')[:, None]
        return np.concatenate((head, words.reshape(B, -1), np.stack(tail, axis=1)), axis=1)

    def special(self, like, word):
        """An array like this one, full of the token of a special word."""
        return np.full_like(like, self.n_symbols + SPECIAL.index(word))

    # -------------------------------------------------------------------------
    # what an evaluation asks

    def neighbours(self, instance, cell):
        """For cells (B, L) of mazes `instance`, three tensors (B, L, 4), one entry a side:

        neighbour   the cell beyond that side
        is_open     whether a passage leads there
        is_nearer   whether that cell is nearer to the target
        Tokens that are no cell have no open side.
        """
        open_bits, distance = instance.unbind(dim=1)             # (B, N + 1) each
        cell = cell.clamp(max=self.n_symbols)
        neighbour = torch.from_numpy(self.neighbour).to(cell.device)[cell]
        side = torch.arange(4, device=cell.device)
        is_open = (open_bits.gather(1, cell)[..., None] >> side & 1) > 0
        beyond = distance.gather(1, neighbour.flatten(1)).unflatten(1, (-1, 4))
        is_nearer = beyond < distance.gather(1, cell)[..., None]
        return neighbour, is_open, is_nearer

    def valid(self, batch, chain):
        """First the origin, then through open sides, and <PATH_END> at the target.

        After a <PATH_END> anything is valid.
        """
        origin = batch.tokens.gather(1, batch.chain_start[:, None])         # (B, 1)
        first = torch.full_like(origin, self.path_start)
        before = torch.cat((first, chain[:, :-1]), dim=1)

        neighbour, is_open, _ = self.neighbours(batch.instance, before)
        is_step = ((neighbour == chain[..., None]) & is_open).any(dim=2)

        distance = batch.instance[:, 1].gather(1, before.clamp(max=self.n_symbols))
        has_ended = (before == self.path_end).cumsum(dim=1) > 0
        is_end = torch.where(distance == 0, chain == self.path_end, has_ended)
        return is_step | torch.where(before == self.path_start, chain == origin, is_end)

    def oracle(self, prompt):
        *cells, origin, target = [token for token in prompt if token < self.n_symbols]

        # the passages, in both directions
        passages = list(zip(cells[::2], cells[1::2], strict=True))
        if self.format == 'grid':
            for cell, sides in enumerate(self.decode(prompt[:-3]).split()):
                for side in sides:
                    passages.append((cell, int(self.neighbour[cell, 'ULDR'.index(side)])))
        passages += [(b, a) for a, b in passages]

        # breadth-first search from the target
        path_from = {target: [target, self.path_end]}
        while origin not in path_from:
            reached = {}
            for a, b in passages:
                if a in path_from and b not in path_from:
                    reached[b] = [b, *path_from[a]]
            path_from |= reached
        return path_from[origin]

    def chance(self, hops):
        """Accuracy of random legal steps that never turn back, on 2,000 mazes."""
        batch = sample_batch(self, 2000, 0, 0, hops=int(hops))
        parts = [self.chance_of_each(batch[first:first + 250]) for first in range(0, 2000, 250)]
        return torch.cat(parts).mean().item()

    def chance_of_each(self, batch):
        """The probability that random steps take the path of each maze, (B,)."""
        _, is_open, _ = self.neighbours(batch.instance, batch.tokens)
        choices = is_open.sum(dim=2) - 1                                    # (B, T) not back
        place = torch.arange(choices.size(1))
        choices += place == batch.chain_start[:, None]  # from the origin there is no way back

        cell = batch.tokens.clamp(max=self.n_symbols)
        is_step = batch.loss_mask & (batch.instance[:, 1].gather(1, cell) > 0)
        return (1 / torch.where(is_step, choices, 1)).prod(dim=1)


def main(argv=None):
    print_examples((Maze,), __doc__, argv)


if __name__ == '__main__':
    with one_line_errors():
        main()
