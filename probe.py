"""Where does a model hold the nodes between question and answer, and does it use them?

A question of k hops takes k lookups: from the start to the node c_1, from there to c_2, and so on
to c_k, the answer. A model that answers in one forward pass must hold the nodes on the way
somewhere. The vectors that flow from layer to layer, one at each token, are its residual stream. A
cell is one of these vectors: after so many layers, at one position. (Layer 0 is the embedding. With
--n_loop every application of a block counts as a layer.) In every cell:

1. Linear probe: can c_j be read off? Fit a linear map from the vector to the node on some
   questions, and count how often its largest output is right on others. The map is a ridge
   regression of the one-hot node: least squares with a penalty on large weights. The penalty is
   chosen by cross-validation, for each cell and hop. Split the questions into five parts. Fit to
   four of them with each penalty, count what is right on the part left out, and do so for every
   part. The penalty with the most right answers is then used to fit to all five.
   The test cannot be passed by heart. Its questions are about tables that neither the probe nor
   the model has seen (cycle, cvpr), or about (person, relation) pairs new to the probe (profiles).
   For profiles, `unasked` is the accuracy on pairs that the model has learned as facts, but never
   as part of a two-hop question.
2. Controls: could the probe be right for another reason?
   chance       always say the most frequent node.
   embedding    the probe at layer 0, where nothing has been computed.
   random init  the same probe on an untrained model of the same shape.
   control      a control task (Hewitt & Liang 2019, 1909.03368): each (start, c_j) gets a random
                label. No model can know it, so what the probe gets right it has learned by heart.
                selectivity = probe accuracy - control accuracy.
   logit lens   no probe: what the model's own head says in this cell (nostalgebraist 2020).
3. Interchange intervention: is c_j used? Put the vector of this cell from question B into the
   forward pass of question A (Geiger et al. 2021, 2106.02997). If the cell holds c_j, and the model
   goes on from it, the answer becomes the node that k - j lookups in A's table reach from B's c_j.
   flip         how often it does, among questions where the model does not say so anyway.
   random       the same after a step of the same length in a random direction, as a control.
   With a chain, the model writes on from the patched cell.

A hop is reported at the position where it is needed. In a direct model that is the last token of
the prompt. In a chain it is the token before the one that names the node. A hop is decodable from
the first layer where the probe there is right for 0.95 of the questions, and for 0.05 more than on
the untrained model.

Departures: EleutherAI's transformer-reasoning reports cross-entropy and lets the same (person,
relation) pairs into fit and test. Here: accuracy and disjoint pairs. Interchanged questions share
nothing but their hop count. A chain model is given the true chain.

    python train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 \\
        --lr 4e-3 --steps 4000 --out_dir out/two-hops
    python probe.py                                    # that model; --ckpt: another one
    python probe.py --layers 1,2 --positions 14,15     # some cells of it
    torchrun --standalone --nproc_per_node=2 probe.py --device cuda

The last line:  final ... best_hop1=... first_layer_hop1=... selectivity=... flip=... chance=...
Results: docs/probe.md
"""

from errors import one_line_errors  # first: see errors.py

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import common
import memory
import plots
from data import (
    CVPR,
    Batch,
    Cycle,
    Lookup,
    Parser,
    Task,
    at_least,
    parse_list,
    require,
    sample_batch,
    write_batch,
)
from linear_probe import correct, fit, random_step
from model import GPT, LossPositions, last_position
from profiles import Profiles


TASKS = (Cycle, CVPR, Profiles)

DEFAULT = 'out/two-hops/ckpt.pt'
TRAIN_DEFAULT = ('python train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 '
                 '--n_embd 32 --lr 4e-3 --steps 4000 --out_dir out/two-hops')

FOLDS = 5
VALUES_AT_ONCE = 2**27  # of the cells that are probed together: half a GiB
DECODABLE = 0.95

LEGEND = """
  probe             accuracy of the linear probe on test questions +- its standard error
  control           the same on random labels: what the probe can learn by heart
  selectivity       probe - control
  random init       the probe on an untrained model of the same shape
  logit lens        how often the model's own head says the node in this cell
  flip              how often the answer follows, when the cell is taken from another question
  random direction  the same after a random step of the same length
"""


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument
    add('--ckpt', help=f'checkpoint of cycle, cvpr or profiles (default: {DEFAULT})')
    add('--layers', type=parse_numbers,
        help='after how many layers, such as 0,2; 0 is the embedding, loops count (default: all)')
    add('--positions', type=parse_numbers,
        help='at which tokens, from 0; those where a hop is needed are added (default: all)')
    add('--n_train', type=at_least(1), default=4000, help='questions that probes are fitted to')
    add('--n_test', type=at_least(1), default=2000, help='questions that they are tested on')
    add('--n_patch', type=at_least(2), default=500, help='questions that are interchanged')
    common.add_run_args(parser, trains=False)
    args = common.parse_args(parser, argv, 'probe')

    if args.ckpt is None:
        require(Path(DEFAULT).exists(),
                f'there is no checkpoint {DEFAULT} yet; this makes it: {TRAIN_DEFAULT}')
        args.ckpt = DEFAULT
    require(max(args.n_train, args.n_test, args.n_patch) <= 10**6, 'at most a million questions')
    return args


def parse_numbers(text):
    """'0,2' -> [0, 2]"""
    return parse_list(text, low=0)


def load_model(path, device):
    """A checkpoint's model, ready for evaluation, its task, and everything else that it holds."""
    model, state = common.load_checkpoint(path, device)
    common.require_tokens(path, state)
    task = common.task_of_checkpoint(path, state, TASKS)
    fits = (len(task.vocab) == model.config.vocab_size
            and task.block_size <= model.config.block_size)
    require(fits, f'{path} is of another version of {task.name}')
    return model.eval(), task, state


def choose_cells(args, model, questions):
    """The layers and positions to look at, two sorted lists."""
    depth = n_applications(model)
    layers = sorted(set(args.layers or range(depth + 1)))
    require(layers[-1] <= depth, f'--layers are 0, the embedding, to {depth} here')

    last = questions.answer_at - 1
    positions = args.positions or range(last + 1)
    positions = sorted({*positions, *questions.needed_at})
    require(positions[-1] <= last, f'--positions are 0 to {last} here')

    phase = {'model': 5 * memory.FLOAT * memory.n_params(model.config)}
    phase |= cells_parts(model.config, questions, len(layers), len(positions), args.n_patch)
    memory.require_memory([phase], common.find_device(args.device), cures=CURES)
    return layers, positions


CURES = {
    'model': 'the model',
    'questions': '--n_train and --n_test',
    'cells': '--positions, --layers, --n_train or --n_test (give fewer)',
    'probes': '--n_train or --n_test',
    'interchange': '--n_patch',
}


def require_room_for_questions(args, task):
    """Raise ValueError if so many questions do not fit into memory."""
    if isinstance(task, Profiles):
        n_all = task.people * task.relations * max(task.attributes, task.relations)
        n_bytes = 80 * n_all
    else:
        n_bytes = 8 * (memory.drawing_bytes(task, args.n_train)
                       + memory.drawing_bytes(task, args.n_test, 'test')) // 4
    memory.require_memory([{'questions': n_bytes}], cures=CURES)


def cells_parts(config, questions, n_layers, n_positions, n_patch):
    """What probing and interchanging takes, on top of the model: {part: bytes}."""
    n_processes = int(os.environ.get('WORLD_SIZE', 1))
    N, T = questions.inputs.shape
    C = config.n_embd
    depth = config.n_layer * config.n_loop
    n_classes = 2 * sum(len(questions.node[:, j].unique()) for j in range(questions.k))
    n_cells = n_layers * max(1, n_positions // n_processes)
    at_once = max(1, min(n_cells, VALUES_AT_ONCE // (N * max(C, n_classes))))
    one_hot = 24 * N * n_classes
    of_a_cell = 4 * N * (3 * C + 3 * n_classes) + 8 * 6 * C * (C + n_classes)
    streams = 4 * (depth + 6) * C * T * (500 + min(n_patch, questions.n_test))
    return {
        'cells': 4 * n_cells * N * C,
        'probes': one_hot + at_once * of_a_cell,
        'interchange': streams,
    }


# -----------------------------------------------------------------------------
# questions

@dataclass
class Questions:
    """N questions of k hops. The first n_train are for fitting, the next n_test for testing. Of
    profiles there are more: pairs that the model was never trained on in two hops."""
    task: Task
    batch: Batch
    n_train: int
    n_test: int
    node: torch.Tensor         # (N, k) int64: the nodes c_1 to c_k
    token: torch.Tensor        # (N, k) int64: the token that stands for each node
    control_key: torch.Tensor  # (N, k) int64: the control task gives each key a random label
    group: torch.Tensor        # (N,) int64: only questions of different groups are independent

    @property
    def k(self):
        return self.node.size(1)

    @property
    def answer_at(self):
        """The position of the answer. A model reads the tokens before it."""
        return int(self.batch.answer[0, 0])

    @property
    def inputs(self):
        """(N, answer_at): what a model reads."""
        return self.batch.tokens[:, :self.answer_at]

    @property
    def needed_at(self):
        """The position at which each of the k hops is needed."""
        last_of_prompt = self.batch.prompt_len - 1
        n_links = self.answer_at - self.batch.prompt_len  # chain tokens before the answer
        return [last_of_prompt + j * n_links // (self.k - 1) for j in range(self.k)]

    @property
    def test_rows(self):
        return slice(self.n_train, self.n_train + self.n_test)


def make_questions(task, mode, n_train, n_test, seed):
    """Questions of the task's largest hop count. mode: with the chain ('cot') or 'direct'.

    Raises ValueError if there is nothing between question and answer, and for tasks whose hops this
    file does not know.
    """
    require(isinstance(task, Lookup | Profiles),
            f'where the hops of {task.name} are is not known here: say it in make_questions')
    require(max(task.hops) > 1, 'with one hop there is nothing between question and answer: train '
                                'with --hops 2, or more')
    if isinstance(task, Lookup):
        return lookup_questions(task, mode, n_train, n_test, seed)
    return profiles_questions(task, mode, n_train, n_test, seed)


def lookup_questions(task, mode, n_train, n_test, seed):
    """Of cycle and cvpr. The split 'test' was held out from the model, and no probe is fitted to
    any of it."""
    k = max(task.hops)
    step = 10**9  # far from the steps that a model was trained on
    to_fit = sample_batch(task, n_train, seed, step, 'train', mode, k)
    to_test = sample_batch(task, n_test, seed, step, 'test', mode, k)
    batch = concatenate(to_fit, to_test)

    start = batch.tokens[:, batch.prompt_len - 1:batch.prompt_len]          # (N, 1)
    nodes = [start]
    for _ in range(k):
        nodes.append(batch.instance.gather(1, nodes[-1]))
    node = torch.cat(nodes[1:], dim=1)                                      # (N, k)

    # With few nodes there are few tables: questions about the same one are of one group.
    _, group = batch.instance.unique(dim=0, return_inverse=True)
    return Questions(task, batch, n_train, n_test, node=node, token=node,
                     control_key=start * 10**6 + node, group=group)


def concatenate(a, b):
    """Two batches of the same mode and hop count as one."""
    return Batch(
        tokens=torch.cat((a.tokens, b.tokens)),
        loss_mask=torch.cat((a.loss_mask, b.loss_mask)),
        answer=torch.cat((a.answer, b.answer)),
        hops=torch.cat((a.hops, b.hops)),
        instance=torch.cat((a.instance, b.instance)),
        prompt_len=a.prompt_len,
    )


def profiles_questions(task, mode, n_train, n_test, seed):
    """Two-hop questions. No (person, relation) pair is both fitted to and tested on.

    Subjects are attributes, or relations if there are no attributes.
    """
    rng = np.random.default_rng([seed, 2])
    n_subjects = task.attributes or task.relations
    n_pairs = task.people * task.relations

    # all questions in random order
    number = rng.permutation(n_pairs * n_subjects).astype(np.int64)  # Windows, numpy < 2: int32
    pair = number // n_subjects
    person = pair // task.relations
    relation = pair % task.relations
    source = np.stack((person, relation, number % n_subjects), axis=1)      # (all, 3)

    # Which pairs did the model meet in two-hop questions? (Where single combinations are held out,
    # it met the pair in others.) A quarter of all pairs is for testing.
    reasons = [task.labels.index(name) for name in ('trained', 'combination')]
    is_asked = np.isin(task.label(source), reasons)
    is_test_pair = rng.permutation(n_pairs) < n_pairs / 4
    is_test = is_test_pair[pair]
    to_fit = source[is_asked & ~is_test][:n_train]
    to_test = source[is_asked & is_test][:n_test]
    unasked = source[~is_asked][:n_test]

    source = np.concatenate((to_fit, to_test, unasked))                     # (N, 3)
    batch = write_batch(task, rng, source, np.full(len(source), 2), mode)
    person, relation, _ = source.T
    bridge = task.truth[person, task.attributes + relation]                 # (N,)
    bridge_token = task.names[bridge, 0]  # the first token of the name
    answer = batch.tokens.gather(1, batch.answer[:, :1])                    # (N, 1)
    node = torch.cat((torch.from_numpy(bridge[:, None]), answer), dim=1)
    token = torch.cat((torch.from_numpy(bridge_token[:, None]), answer), dim=1)
    start = torch.from_numpy(person[:, None])
    group = torch.from_numpy(person * task.relations + relation)
    return Questions(task, batch, len(to_fit), len(to_test), node=node, token=token,
                     control_key=start * 10**6 + node, group=group)


def counterfactual_answers(questions, rows, donors, j):
    """The answers (n,) of questions `rows` if their j-th nodes were those of questions `donors`.

    rows, donors (n,). j from 1 to k.
    """
    task = questions.task
    node = questions.node[donors, j - 1]
    instance = questions.batch.instance[rows]
    if isinstance(task, Lookup):
        for _ in range(questions.k - j):
            node = instance.gather(1, node[:, None])[:, 0]
        return node
    if j == 1:
        subject = instance[:, 2].numpy()
        answers = task.answers(node.numpy(), subject)                       # (n, answer_len)
        return torch.from_numpy(answers[:, 0])
    return node


# -----------------------------------------------------------------------------
# labels

@dataclass
class Labels:
    """What the probes predict: k targets whose classes are nodes, then k control tasks."""
    y: torch.Tensor     # (N, 2k) int64
    classes: list       # (2k) how many classes each target has
    chance: list        # (k) accuracy of the best guess at each node that does not look
    fold: torch.Tensor  # (n_train,) int64: part of the cross-validation


def make_labels(questions, seed):
    """Raises ValueError if there are too few questions for so many classes."""
    columns = []
    classes = []
    chance = []
    for j in range(questions.k):
        names, label = questions.node[:, j].unique(return_inverse=True)     # (N,)
        check_enough_questions(questions, label, len(names), j)
        columns.append(label)
        classes.append(len(names))
        chance.append(chance_of_node(questions, label, j))

    # the control task: a random label for each key, as frequent as the nodes themselves
    generator = torch.Generator().manual_seed(seed)
    for j in range(questions.k):
        keys, index = questions.control_key[:, j].unique(return_inverse=True)
        row = torch.randint(questions.n_train, (len(keys),), generator=generator)
        random_label = columns[j][row]                                      # (keys,)
        columns.append(random_label[index])

    # whole groups go into a fold
    groups, group = questions.group[:questions.n_train].unique(return_inverse=True)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    fold = order[group] % FOLDS
    return Labels(torch.stack(columns, dim=1), classes * 2, chance, fold)


def check_enough_questions(questions, label, n_classes, j):
    """Raise ValueError if a probe of hop j + 1 would have too little to learn from."""
    fit_rows = slice(0, questions.n_train)
    pairs = torch.stack((questions.group, label))[:, fit_rows]
    n_different = pairs.unique(dim=1).size(1)
    n_independent = len(questions.group[questions.test_rows].unique())
    enough = (questions.n_train >= 5 * n_classes and n_different >= 2 * n_classes
              and n_independent >= 10)
    advice = 'train on more people or relations'
    if isinstance(questions.task, Lookup):
        advice = 'give more --n_train, --n_test or train on more nodes'
    require(enough, f'too few questions for the {n_classes} classes of hop {j + 1}: '
                    f'{questions.n_train:,} to fit (at least {5 * n_classes}), {n_different:,} of '
                    f'them different ({2 * n_classes}), {n_independent:,} independent ones to test '
                    f'(10); {advice}')


def chance_of_node(questions, label, j):
    """Accuracy of always saying the node that is most frequent among the questions to fit."""
    most_frequent = label[:questions.n_train].bincount().argmax()
    chance = (label[questions.test_rows] == most_frequent).float().mean().item()
    if questions.task.name == 'cycle':  # one can also say any node but the start
        chance = max(chance, questions.task.chance(j + 1))
    return chance


# -----------------------------------------------------------------------------
# the residual stream

def n_applications(model):
    """How many times a block is applied: the number of layers, counting loops."""
    return model.config.n_layer * model.config.n_loop


def embed(model, idx):
    """(B, T) -> (B, T, C)"""
    return model.embed(model.wte(idx), slice(0, idx.size(1)))


def apply_block(model, x, i, loss_positions=None):
    """The i-th application of a block to x (B, T, C)."""
    block = model.blocks[i % model.config.n_layer]
    angles = model.rope[:, :x.size(1)] if model.config.pos == 'rope' else None
    return block(x, angles, loss_positions=loss_positions)


def residual_stream(model, idx):
    """[x_0, ..., x_L], each (B, T, C): the embedding of idx (B, T), then what each layer leaves."""
    stream = [embed(model, idx)]
    for i in range(n_applications(model)):
        stream.append(apply_block(model, stream[-1], i))
    return stream


def collect(model, questions, layers, positions, run):
    """The vectors of all questions in every cell: (layers, positions, N, C) float32."""
    inputs = questions.inputs
    N = len(inputs)
    cells = torch.empty(len(layers), len(positions), N, model.config.n_embd, device=run.device)
    for first in range(0, N, 500):  # in parts, so that it fits into memory
        idx = inputs[first:first + 500].to(run.device)
        with run.autocast:
            stream = residual_stream(model, idx)
        for i, layer in enumerate(layers):
            vectors = stream[layer][:, positions]                           # (B, positions, C)
            cells[i, :, first:first + len(idx)] = vectors.transpose(0, 1)
    return cells


# -----------------------------------------------------------------------------
# linear probes

def standard_error(hit, group):
    """The standard error of the mean of hit (G, n, J) over questions, (G, J).

    Only questions of different groups (n,) are independent, so errors are summed by group first.
    """
    groups, index = group.unique(return_inverse=True)
    error = hit - hit.mean(1, keepdim=True)
    sums = torch.zeros(len(hit), len(groups), hit.size(2), device=hit.device)
    sums = sums.index_add(1, index.to(hit.device), error)
    return sums.square().sum(1).sqrt() / hit.size(1)


def probe(model, questions, labels, layers, positions, run):
    """Probes of every hop in every cell: {measure: (layers, positions, k) on the CPU}.

    acc      accuracy on the test questions
    se       its standard error
    control  accuracy on the control task, where its key was among the questions to fit
    lens     accuracy of the model's own head
    unasked  (profiles) accuracy on pairs that the model was never trained on in two hops
    """
    x = collect(model, questions, layers, positions, run)     # (layers, positions, N, C)
    N, C = x.shape[2:]
    cells_at_once = max(1, VALUES_AT_ONCE // (N * max(C, sum(labels.classes))))
    parts = []
    for cells in x.flatten(0, 1).split(cells_at_once):
        parts.append(probe_cells(model, questions, labels, cells))

    grids = {}
    for name in parts[0]:
        of_cells = torch.cat([part[name] for part in parts])                # (cells, k)
        grids[name] = of_cells.cpu().unflatten(0, x.shape[:2])
    return grids


def probe_cells(model, questions, labels, cells):
    """The measures of `probe` in cells (G, N, C), each (G, k)."""
    k = questions.k
    n_train = questions.n_train
    n_test = questions.n_test
    device = cells.device
    y = labels.y.to(device)
    W, b, _ = fit(cells[:, :n_train], y[:n_train], labels.fold.to(device), labels.classes)
    scores = torch.baddbmm(b[..., None], W.mT, cells[:, n_train:].mT)       # (G, M, N - n_train)
    hit = correct(scores, y[n_train:], labels.classes).float()              # (G, N - n_train, 2k)
    hit_node = hit[:, :n_test, :k]
    hit_control = hit[:, :n_test, k:]

    # the control task counts where its label could be known
    is_known = []
    for key in questions.control_key.T:
        is_known.append(torch.isin(key[questions.test_rows], key[:n_train]))
    is_known = torch.stack(is_known, dim=1).float().to(device)              # (n_test, k)

    lens = model.head(cells[:, questions.test_rows]).argmax(-1)             # (G, n_test)
    token = questions.token[questions.test_rows].to(device)                 # (n_test, k)
    measures = dict(
        acc=hit_node.mean(1),
        se=standard_error(hit_node, questions.group[questions.test_rows]),
        control=(hit_control * is_known).sum(1) / is_known.sum(0).clamp(min=1),
        lens=(lens[..., None] == token).float().mean(1))
    if isinstance(questions.task, Profiles):
        measures['unasked'] = hit[:, n_test:, :k].mean(1)
    return measures


# -----------------------------------------------------------------------------
# interchange interventions

def interchange(model, questions, layers, positions, n_patch, run, seed):
    """How often the answer becomes the counterfactual one: {measure: (layers, positions, k)}.

    flip    the cell of each test question is taken from the test question before it
    random  the cell is moved as far, in a random direction
    Counted where nodes differ and the model does not give the counterfactual answer by itself.
    """
    rows = torch.arange(questions.n_train, questions.n_train + min(n_patch, questions.n_test))
    donors = rows.roll(1)
    tokens = questions.inputs[rows].to(run.device)
    expected = []
    for j in range(questions.k):
        expected.append(counterfactual_answers(questions, rows, donors, j + 1))
    expected = torch.stack(expected, dim=1)                                 # (n, k)

    shape = (len(layers), len(positions), questions.k)
    flip = torch.zeros(shape)
    random = torch.zeros(shape)
    with run.autocast:
        stream = residual_stream(model, tokens)
        own_answer = model.head(stream[-1][:, -1:]).argmax(-1).cpu()       # (n, 1)
        other_node = questions.node[rows] != questions.node[donors]
        is_counted = (expected != own_answer) & other_node                  # (n, k)

        for i, layer in enumerate(layers):
            for j, position in enumerate(positions):
                x = stream[layer][:, position]                              # (n, C)
                donor_x = x.roll(1, 0)
                # each cell has a seed of its own, whichever others are looked at
                step = random_step(x, donor_x, seed + 10**6 * layer + 10**3 * position)
                for grid, value in ((flip, donor_x), (random, x + step)):
                    answer = patched_answers(model, questions, tokens, stream, layer, position,
                                             value)
                    hits = (answer.cpu()[:, None] == expected) & is_counted
                    grid[i, j] = hits.sum(0) / is_counted.sum(0).clamp(min=1)
    return dict(flip=flip, random=random)


def patched_answers(model, questions, tokens, stream, layer, position, value):
    """The answers (B,) if the vector after `layer` layers at `position` is value (B, C).

    tokens (B, answer_at), stream = residual_stream(model, tokens). Tokens up to the position stay
    as they are. Those of the chain behind it, and the answer, are the model's own greedy choice.
    """
    depth = n_applications(model)
    idx = tokens[:, :max(position + 1, questions.batch.prompt_len)]

    # below the patch nothing changes, so the first pass starts there
    x = with_vector(stream[layer][:, :idx.size(1)], position, value)
    first = layer
    while True:
        last = LossPositions(last_position(idx), causal=True)
        for i in range(first, depth):
            if i == layer:
                x = with_vector(x, position, value)
            x = apply_block(model, x, i, loss_positions=last if i == depth - 1 else None)
        x = x.view(len(idx), -1, x.size(-1))[:, -1]                         # (B, C)
        token = model.head(x).argmax(-1)
        if idx.size(1) == questions.answer_at:
            return token

        # write the token, and read the chain again from the embedding
        idx = torch.cat((idx, token[:, None]), dim=1)
        x = embed(model, idx)
        first = 0


def with_vector(x, position, value):
    """x (B, T, C), where the vector at this position is value (B, C)."""
    x = x.clone()  # not index_copy, which not every torch has on mps
    x[:, position] = value
    return x


# -----------------------------------------------------------------------------
# results

def measure_cells(model, questions, labels, layers, positions, args, run):
    """All measures in all cells: {measure: (layers, positions, k)}. Each process works on every
    world-th position."""
    my_positions = positions[run.rank::run.world]
    torch.manual_seed(args.seed)
    untrained = GPT(model.config).to(run.device).eval()
    grids = probe(model, questions, labels, layers, my_positions, run)
    of_untrained = probe(untrained, questions, labels, layers, my_positions, run)
    grids['random_init'] = of_untrained['acc']
    grids |= interchange(model, questions, layers, my_positions, args.n_patch, run, args.seed)
    if run.world == 1:
        return grids

    run.join_group()
    shares = [None] * run.world
    dist.all_gather_object(shares, grids)
    run.leave_group()
    whole = {}
    for name in grids:
        columns = []
        for i in range(len(positions)):
            share = shares[i % run.world][name]
            columns.append(share[:, i // run.world])
        whole[name] = torch.stack(columns, dim=1)
    return whole


def where_needed(record, name):
    """A measure by layer, at the position where this hop is needed."""
    column = record['positions'].index(record['position'])
    return [row[column] for row in record[name]]


def hop_record(j, grids, questions, labels, layers, positions):
    """Everything about hop j + 1: the grids, and a summary of where the hop is needed."""
    record = dict(hop=j + 1, position=questions.needed_at[j], chance=labels.chance[j],
                  layers=layers, positions=positions)
    for name, grid in grids.items():
        record[name] = grid[..., j].double().round(decimals=4).tolist()

    # the layer with the best probe, and the first one at which the hop is decodable
    acc = where_needed(record, 'acc')
    untrained = where_needed(record, 'random_init')
    best = acc.index(max(acc))
    first = first_decodable(acc, untrained)
    patched = best if first is None else first
    record |= dict(
        best=acc[best],
        first_layer='none' if first is None else layers[first],
        selectivity=acc[best] - where_needed(record, 'control')[best],
        untrained=max(untrained),
        embedding=acc[0] if layers[0] == 0 else None,
        flip_first=where_needed(record, 'flip')[patched],
        random_first=where_needed(record, 'random')[patched])
    if 'unasked' in grids:
        record['unasked_best'] = where_needed(record, 'unasked')[best]
    return record


def first_decodable(acc, untrained):
    """Where the probe's accuracy by layer is high enough for the first time. None: nowhere."""
    for i in range(len(acc)):
        if acc[i] >= max(DECODABLE, untrained[i] + 0.05):
            return i
    return None


def print_hop(record, word, run):
    """A table of what is found, layer by layer, at the token `word` where the hop is needed."""
    run.print(f'hop {record["hop"]} at position {record["position"]} ({word}), chance '
              f'{record["chance"]:.3f}')
    run.print('  layer  probe          control  selectivity  random init  logit lens  flip   '
              'random direction')
    names = ('acc', 'se', 'control', 'random_init', 'lens', 'flip', 'random')
    columns = [where_needed(record, name) for name in names]
    for layer, *values in zip(record['layers'], *columns, strict=True):
        acc, se, control, untrained, lens, flip, random = values
        run.print(f'  {layer:5}  {acc:.3f} +- {se:.3f} {control:7.3f} {acc - control:12.3f} '
                  f'{untrained:12.3f} {lens:11.3f} {flip:6.3f} {random:11.3f}')


def final_values(records, acc, mode, model, questions, args):
    """The last line. acc: the model's own accuracy, or None if its last layer is left out."""
    first_hop = records[0]
    has_embedding = first_hop['layers'][0] == 0
    final = dict(task=questions.task.name, hops=questions.k, mode=mode,
                 n_layer=model.config.n_layer, n_loop=model.config.n_loop)
    for record in records:
        final[f'best_hop{record["hop"]}'] = record['best']
    for record in records:
        final[f'first_layer_hop{record["hop"]}'] = record['first_layer']
    final |= dict(
        selectivity=min(record['selectivity'] for record in records),
        random_init=max(record['untrained'] for record in records),
        embedding=None,
        flip=first_hop['flip_first'],
        flip_random=first_hop['random_first'])
    if has_embedding:
        final['embedding'] = max(record['embedding'] for record in records)

    # the embedding of the first node that is written is that token: here it is replaced
    if mode == 'cot' and isinstance(questions.task, Lookup) and has_embedding:
        column = first_hop['positions'].index(questions.batch.prompt_len)
        final['flip_token'] = first_hop['flip'][0][column]

    n_cells = len(first_hop['layers']) * len(first_hop['positions'])
    final |= dict(
        unasked=first_hop.get('unasked_best'),
        acc=acc,
        chance=max(record['chance'] for record in records),
        n_test=questions.n_test,
        cells=n_cells * questions.k)
    return final


def own_accuracy(grids, model, questions, layers, positions):
    """The model's accuracy on the test questions, or None if its last layer is left out."""
    if layers[-1] < n_applications(model):
        return None
    return grids['lens'][-1, positions.index(questions.answer_at - 1), -1].item()


# -----------------------------------------------------------------------------
# everything in order

@torch.no_grad()
def main(argv=None):
    """Probe one checkpoint. Returns the values of the last line."""
    args = parse_args(argv)
    model, task, state = load_model(args.ckpt, common.find_device(args.device))
    mode = state['mode']

    # what is asked, what the probes have to tell, and where to look
    require_room_for_questions(args, task)
    questions = make_questions(task, mode, args.n_train, args.n_test, args.seed)
    labels = make_labels(questions, args.seed)
    layers, positions = choose_cells(args, model, questions)
    example = task.decode(questions.inputs[questions.n_train].tolist()).split()

    facts = dict(params=model.num_params(), example=[example[p] for p in positions])
    with common.Run('probe', args, **facts) as run:
        torch.set_float32_matmul_precision('highest')  # TF32 would move the probes' weights
        grids = measure_cells(model, questions, labels, layers, positions, args, run)
        if not run.master:
            return None

        acc = own_accuracy(grids, model, questions, layers, positions)
        print_header(questions, mode, layers, positions, acc, example, run)
        records = []
        for j in range(questions.k):
            record = hop_record(j, grids, questions, labels, layers, positions)
            print_hop(record, example[record['position']], run)
            run.log(arm='hop', **record)
            records.append(record)

        final = final_values(records, acc, mode, model, questions, args)
        final |= dict(model_seed=state['args'].get('seed'), seed=args.seed, seconds=run.seconds())
        run.log(arm='final', **final)
        text = json.dumps(dict(final=final, hops=records)) + '\n'
        common.write_atomic(run.out_dir / 'results.json', lambda path: path.write_text(text))
        plots.draw_run(run.out_dir)
        run.print(in_words(final))
        run.print(common.final_line(**final))
        return final


def in_words(final):
    """One sentence: what was found about the first hop, and against which controls."""
    return (f'Hop 1 is read with accuracy {final["best_hop1"]:.3f} (in an untrained model '
            f'{final["random_init"]:.3f}, by guessing {final["chance"]:.3f}). When it is exchanged '
            f'the answer follows in {final["flip"]:.3f} of cases, after a random step in '
            f'{final["flip_random"]:.3f}.')


def print_header(questions, mode, layers, positions, acc, example, run):
    """What is measured, one of the questions, and what the columns of the tables mean."""
    text = (f'{questions.task.name}, {questions.k} hops, {mode}: {len(layers)} x {len(positions)} '
            f'cells, {questions.n_train:,} questions to fit, {questions.n_test:,} to test')
    if acc is not None:
        text += f'; the model answers {acc:.3f} of these'
    run.print(f'{text}. One of them:')
    run.print(f'  {" ".join(example)}')
    run.print(LEGEND)


if __name__ == '__main__':
    with one_line_errors():
        main()
