"""sample.py: prompts are read right or refused in one line, and what is shown is true."""

import io
import math
import re

import numpy as np
import pytest
import torch
from conftest import call, final_values

import capacity
import common
import data
import sample
import train_cot
import train_maze
import train_rl
from countdown import Countdown
from data import CVPR, Cycle, Multiply, Star, Task, held_out, sample_batch, write_batch
from maze import Maze
from profiles import Profiles


TASKS = {
    'cycle': Cycle(nodes=7, hops=[1, 2, 3]),
    'cycle pairs': Cycle(nodes=6, hops=[2, 4], format='pairs'),
    'cvpr': CVPR(nodes=8, hops=[1, 2, 3]),
    'cvpr pairs': CVPR(nodes=8, hops=[3], format='pairs'),
    'multiply': Multiply(digits=2),
    'multiply reverse': Multiply(digits=3, reverse=True),
    'star': Star(star=(2, 4)),
    'star reverse': Star(star=(3, 3), nodes=12, reverse=True),
    'countdown': Countdown(),
    'countdown 5': Countdown(numbers=5),
    'profiles': Profiles(people=20),
    'profiles one hop': Profiles(people=20, hops=[1]),
    'profiles no attributes': Profiles(people=20, attributes=0, bipartite=True),
    'profiles relabel': Profiles(people=20, relabel=True),
    'maze': Maze(grid=[3]),
    'maze grid': Maze(grid=[3], format='grid'),
    'maze sizes': Maze(grid=[2, 3, 4]),
    'maze sizes grid': Maze(grid=[2, 3, 4], format='grid', gen='wilson'),
    'maze loops': Maze(grid=[4], gen='percolation', percolation=0.5),
    'maze loops grid': Maze(grid=[3], gen='percolation', format='grid'),
    'maze bare': Maze(grid=[3], no_separators=True),
}
ANY_ORDER = ('cycle pairs', 'cvpr pairs', 'star', 'star reverse', 'maze', 'maze sizes',
             'maze loops', 'maze bare')

# The snake of the docstring of maze.py, and a comb.
MAZE_2 = 'DR L UR L (1,1) (0,1) <PATH_START>'
PATH_2 = '(1,1) (1,0) (0,0) (0,1) <PATH_END>'
COMB = ['0,0 1,0', '1,0 2,0', '0,1 1,1', '2,1 1,1', '0,2 1,2', '1,2 2,2', '1,0 1,1', '1,2 1,1']


def maze_text(passages, origin, target):
    """'0,0 1,0' and the like as an adjacency list."""
    words = ['<ADJLIST_START>']
    for passage in passages:
        a, b = passage.split()
        words += [f'({a})', '<-->', f'({b})', ';']
    words += ['<ADJLIST_END>', '<ORIGIN_START>', f'({origin})', '<ORIGIN_END>', '<TARGET_START>',
              f'({target})', '<TARGET_END>', '<PATH_START>']
    return ' '.join(words)


def prompts_of(task, n, split='train'):
    """n prompts of the task, as lists of tokens without padding, and their batch."""
    batch = sample_batch(task, n, 3, 0, split)
    prompts = []
    for row in range(n):
        prompt = batch.tokens[row, :batch.chain_start[row]].tolist()
        prompts.append([token for token in prompt if token != task.pad])
    return prompts, batch


def chain_of(batch, row=0):
    return batch.tokens[row][batch.loss_mask[row]].tolist()


# -----------------------------------------------------------------------------
# read is the inverse of write

@pytest.mark.parametrize('name', TASKS)
def test_read_is_the_inverse_of_write(name):
    task = TASKS[name]
    prompts, batch = prompts_of(task, 60)
    for row, prompt in enumerate(prompts):
        source, hops = task.read(prompt)
        again = write_batch(task, np.random.default_rng(row), source, hops, 'cot')
        assert again.hops.tolist() == [batch.hops[row]]
        assert again.instance[0].tolist() == batch.instance[row].tolist()
        rewritten = again.tokens[0, :again.chain_start[0]].tolist()
        assert sorted(prompt) == sorted(token for token in rewritten if token != task.pad)
        if not task.name.startswith(('countdown', 'maze')):  # these leave the chain open
            assert chain_of(again) == chain_of(batch, row)


@pytest.mark.parametrize('name', TASKS)
def test_a_prompt_as_it_is_printed_is_read_with_and_without_padding(name):
    task = TASKS[name]
    prompts, batch = prompts_of(task, 20, 'test')
    for row, prompt in enumerate(prompts):
        printed = batch.tokens[row, :batch.chain_start[row]].tolist()
        for tokens in (printed, prompt):
            read = sample.read_prompt(task, 'cot', task.decode(tokens))
            assert read.hops.tolist() == [batch.hops[row]]
            assert read.tokens[0, :read.chain_start[0]].tolist() == printed  # in the typed order
            assert len(task.valid(read, torch.tensor([chain_of(read)]))) == 1


@pytest.mark.parametrize('name', ANY_ORDER)
def test_edges_may_be_typed_in_any_order(name):
    task = TASKS[name]
    rng = np.random.default_rng(0)
    prompts, batch = prompts_of(task, 20)
    for row, prompt in enumerate(prompts):
        first, width, ends = 0, 2, 2        # where edges begin, their words, the words behind
        if task.name == 'star':
            width, ends = 3, 3
        if task.name == 'maze':
            first, width, ends = 1, 2 if task.no_separators else 4, 8
        edges = np.array(prompt[first:-ends]).reshape(-1, width)
        last_word = edges[-1, -1]
        edges = edges[rng.permutation(len(edges))]
        if task.name == 'star':             # '|' between edges, '/' behind the last one
            edges[:, -1] = task.nodes
            edges[-1, -1] = last_word
        typed = prompt[:first] + edges.ravel().tolist() + prompt[-ends:]
        read = sample.read_prompt(task, 'cot', task.decode(typed))
        assert read.tokens[0, :read.prompt_len].tolist() == typed
        assert read.instance[0].tolist() == batch.instance[row].tolist()


# -----------------------------------------------------------------------------
# what is no prompt

def refused(task, text, mode='cot'):
    """The message for a text that must be refused: one line, with a prompt that is accepted."""
    with pytest.raises(ValueError) as caught:
        sample.read_prompt(task, mode, text)
    message = str(caught.value)
    assert '\n' not in message
    before, example = message.split('One of its prompts: ')
    sample.read_prompt(task, mode, example)
    return before


@pytest.mark.parametrize('name, text, why', [
    ('cycle', '', '0 words'),
    ('cycle', '3 0 1', '3 words'),
    ('cycle', '1 2 3 4 5 6 0 k=2 0 0', '10 words'),
    ('cycle', '1 2 3 4 5 6 0 k=4 0', "no word 'k=4'"),
    ('cycle', '1 2 3 4 5 6 hello k=2 0', "no word 'hello'"),
    ('cycle', '1 2 3 4 5 6 0 3 0', 'no hop count'),
    ('cycle', '1 2 3 4 5 6 0 _ 0', 'no hop count'),
    ('cycle', '1 2 3 4 5 6 k=1 k=2 0', 'successor'),
    ('cycle', '1 2 3 4 5 6 _ k=2 0', 'successor'),
    ('cycle', '1 2 3 4 5 6 0 k=2 k=1', 'start node'),
    ('cycle', '2 7 * 4 3 =', 'no word'),
    ('cycle pairs', '0 1 1 2 2 3 3 4 4 5 4 0 k=2 0', 'successor'),
    ('multiply', '2 7 * 4 3', 'two factors'),
    ('multiply', '2 7 4 * 3 =', 'two factors'),
    ('multiply', '* * * * * *', 'two factors'),
    ('multiply', '1 _ * 4 3 =', 'two factors'),
    ('multiply', '= 2 7 * 4 3', 'two factors'),
    ('star', '8 3 | 4 0 | 3 7 / 8 7 =', 'words'),
    ('star', '8 3 | 3 4 | 4 0 | 8 1 | 1 2 | 2 5 / 8 2 =', 'arms'),     # the goal is no end
    ('star', '8 3 | 3 4 | 4 0 | 0 1 | 8 2 | 2 5 / 8 1 =', 'arms'),     # one arm is too long
    ('star', '8 3 | 3 4 | 4 0 | 3 1 | 1 2 | 2 5 / 8 0 =', 'arms'),     # a branch
    ('star', '8 3 | 3 4 | 4 0 | 8 1 | 1 2 | 2 5 / 9 0 =', 'arms'),     # no centre
    ('star', '8 3 | 3 4 | 4 0 | 1 2 | 2 5 | 5 1 / 8 0 =', 'arms'),     # a circle
    ('star', '8 3 | 3 4 | 4 0 | 8 1 | 1 2 | 2 5 / 8 8 =', 'arms'),
    ('star', '8 3 | 3 4 / 4 0 | 8 1 | 1 2 | 2 5 / 8 0 =', ''),
    ('star', '8 | 3 3 4 | 4 0 | 8 1 | 1 2 | 2 5 / 8 0 =', 'two nodes'),
    ('countdown', '24', '2 to 4 numbers'),
    ('countdown', '24 4', '2 to 4 numbers'),
    ('countdown', '24 1 2 3 4 5', '2 to 4 numbers'),
    ('countdown', '24 4 6 8 200', "no word '200'"),
    ('countdown', '24 4 6 -8 1', "no word '-8'"),
    ('countdown', '9 4 6 8 10', 'from 10 to 100'),
    ('countdown', '101 4 6 8 10', 'from 10 to 100'),
    ('countdown', '24 4 + 8 10', '2 to 4 numbers'),
    ('countdown', '_ _ _ _ _', '2 to 4 numbers'),
    ('profiles', 'a0 a1 a2 employer', 'no person'),
    ('profiles', 'a0 b0 c0', 'three words'),
    ('maze', '<ADJLIST_START>', 'pairs of cells'),
    ('maze', '(0,0) (1,1)', 'passages'),
    ('maze', maze_text(COMB, '0,0', '3,3'), 'no word'),
    ('maze', maze_text(COMB[1:], '0,0', '2,2'), 'no way'),
    ('maze', maze_text([*COMB, '0,0 0,1'], '0,0', '2,2'), 'too long'),  # a loop, in dfs mazes
    ('maze', maze_text([*COMB[:-1], '0,0 2,2'], '0,0', '2,2'), ''),
    ('maze', maze_text([*COMB[:-1], COMB[0]], '0,0', '2,2'), ''),
    ('maze', maze_text(COMB, '0,0', '2,2').replace('<PATH_START>', '<PATH_END>'), ''),
    ('maze', maze_text(COMB, '0,0', '2,2').replace(' <-->', ' ;', 1), ''),
    ('maze sizes', maze_text(['0,0 0,1', '0,0 1,0', '1,0 1,1'], '0,0', '3,3'), 'outside'),
    ('maze sizes grid', 'DR L UR L (1,1) (2,2) <PATH_START>', 'outside'),
    ('maze sizes grid', 'DR L UR (1,1) (0,1) <PATH_START>', 'square'),
    ('maze sizes grid', 'DR L UR R (1,1) (0,1) <PATH_START>', ''),       # leads out of the maze
    ('maze sizes grid', 'DR L U L (1,1) (0,1) <PATH_START>', ''),        # open from one side only
    ('maze sizes grid', 'D L UR L (1,1) (0,1) <PATH_START>', ''),
    ('maze sizes grid', 'D D U U (1,1) (0,0) <PATH_START>', 'no way'),
])
def test_malformed_prompts_are_refused_with_the_reason(name, text, why):
    assert why in refused(TASKS[name], text)


def test_profiles_refuse_words_that_ask_nothing():
    task = TASKS['profiles']
    name = task.decode(task.names[3].tolist())
    assert 'no attribute or relation' in refused(task, f'{name} v3')
    assert 'no attribute or relation' in refused(task, f'v120 {name} friend')
    assert 'no relation' in refused(task, f'friend {name} employer')
    assert 'three words' in refused(task, f'friend friend {name} friend')
    one_hop = TASKS['profiles one hop']
    assert 'three words' in refused(one_hop, f'friend {name} friend')


@pytest.mark.parametrize('name', TASKS)
def test_random_prompts_are_refused_in_one_line_or_understood(name):
    """Broken prompts: whatever is not refused must be a prompt whose chain the oracle confirms."""
    task = TASKS[name]
    rng = np.random.default_rng(1)
    prompts, _ = prompts_of(task, 25)
    n_refused = 0
    for prompt in prompts * 2:
        words = task.decode(spoil(rng, task, prompt)).split()
        if rng.random() < 0.1 and words:
            words[rng.integers(len(words))] = rng.choice(['hello', '-1', '999999', '0.5', 'k='])
        text = ' '.join(words)
        try:
            batch = sample.read_prompt(task, 'cot', text)
        except ValueError as error:
            assert '\n' not in str(error) and 'One of its prompts: ' in str(error)
            n_refused += 1
            continue
        P = int(batch.chain_start[0])
        assert P + sample.most_tokens(task, batch, 'cot') <= task.block_size
        chain = chain_of(batch)
        truth = task.oracle(batch.tokens[0, :P].tolist())
        assert len(chain) == len(truth)
        if task.name not in ('countdown', 'maze'):
            assert chain == truth
        if name != 'profiles relabel':
            assert task.valid(batch, torch.tensor([chain])).all()
    assert n_refused > 10


def spoil(rng, task, prompt):
    """The prompt with one to three random mistakes. They may cancel out."""
    prompt = list(prompt)
    for _ in range(rng.integers(1, 4)):
        i, j = rng.integers(len(prompt), size=2) if prompt else (0, 0)
        kind = rng.integers(6)
        if kind == 0:
            prompt = prompt[:i] + prompt[i + 1:]
        elif kind == 1:
            prompt.insert(i, int(rng.integers(len(task.vocab))))
        elif kind == 2 and prompt:
            prompt[i], prompt[j] = prompt[j], prompt[i]
        elif kind == 3 and prompt:
            prompt[i] = int(rng.integers(len(task.vocab)))
        elif kind == 4 and prompt:
            prompt[i] = int(rng.integers(task.n_symbols))
        elif kind == 5 and rng.random() < 0.2:
            prompt = rng.permutation(prompt).astype(int).tolist()[:i]
    return prompt


# -----------------------------------------------------------------------------
# what the rules say of a chain

def dictate(monkeypatch, chain, p=0.9):
    """Let the model write this chain, whatever its weights: each token with probability p."""
    left = list(chain)

    def next_logits(model, tokens, pad):
        V = model.config.vocab_size
        logits = torch.full((1, V), math.log((1 - p) / (V - 1)))
        logits[0, left.pop(0)] = math.log(p)
        return logits

    monkeypatch.setattr(sample, 'next_logits', next_logits)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    """ckpt('train_cot', '--hops 2') -> the checkpoint of a model trained for two steps."""
    scripts = dict(train_cot=train_cot, train_rl=train_rl, train_maze=train_maze)
    made = {}

    def make(script, flags, file='ckpt.pt'):
        if (script, flags) not in made:
            folder = tmp_path_factory.mktemp('run')
            shape = ['--n_layer', '1', '--n_embd', '16', '--n_head', '1']
            words = ['--steps', '2', '--n_test', '8', '--batch_size', '8', '--out_dir', str(folder)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Countdown, 'chance', lambda task, hops: 0.5)
                code, _, err = call(scripts[script], [*flags.split(), *shape, *words])
            assert code == 0, err
            made[script, flags] = folder
        return str(made[script, flags] / file)

    return make


def lines_of_tokens(out):
    """[(token, probability, runner-up, 'follows' or 'does not follow' or ''), ...]"""
    lines = []
    for line in out.split('runner-up')[1].split('\n')[1:]:
        words = line.split()
        if not words:
            return lines
        lines.append((words[0], float(words[1]), words[2], ' '.join(words[4:])))


@pytest.mark.parametrize('chain, follows, verdict', [
    ('4 2 1', 'yes yes yes', 'answer  1: right'),
    ('4 3 1', 'yes no no', 'answer  1: right'),                # by luck
    ('2 1 0', 'no yes yes', 'answer  0: wrong, it is 1'),      # one slip, then on from there
    ('4 k=1 k=1', 'yes no no', 'answer  k=1: wrong, it is 1'),
])
def test_a_dictated_chain_is_judged_token_by_token(ckpt, monkeypatch, chain, follows, verdict):
    path = ckpt('train_cot', '--hops 3 --nodes 5 --mode both')
    task = Cycle(nodes=5, hops=[3])
    dictate(monkeypatch, task.encode(chain))
    code, out, _ = call(sample, ['--ckpt', path, '3 0 1 4 2 k=3 3'])      # 3 -> 4 -> 2 -> 1
    assert code == 0
    lines = lines_of_tokens(out)
    assert ' '.join(line[0] for line in lines) == chain
    said = [{'follows': 'yes', 'does not follow': 'no'}[line[3]] for line in lines]
    assert ' '.join(said) == follows
    assert all(line[1] == 0.9 and line[2] != line[0] for line in lines)
    assert verdict in out
    assert final_values(out) == dict(task='cycle', n='1', right=str(int('right' in verdict)))


def test_a_direct_model_is_judged_by_its_answer(ckpt, monkeypatch):
    path = ckpt('train_cot', '--hops 3 --nodes 5 --mode both', 'ckpt_direct.pt')
    for answer, verdict in (('1', '1: right'), ('4', '4: wrong, it is 1')):
        dictate(monkeypatch, [int(answer)])
        code, out, _ = call(sample, ['--ckpt', path, '3 0 1 4 2 k=3 3'])
        assert code == 0 and verdict in out and 'follow' not in out


@pytest.mark.parametrize('chain, right, follows', [
    ('yes 8 - 4 = 4', 1, 'yes yes yes yes yes yes'),        # 24 from 4 4 6
    ('yes 6 - 4 = 2', 1, 'yes yes yes yes yes yes'),        # legal, but leads to 24 no more
    ('yes 8 - 4 = 5', 1, 'yes no no no no no'),
    ('no', 0, 'no'),
    ('= = = = = =', 0, 'no no no no no no'),
])
def test_countdown_judges_verdict_and_step(ckpt, monkeypatch, chain, right, follows):
    path = ckpt('train_cot', '--task countdown')
    dictate(monkeypatch, Countdown().encode(chain))
    code, out, err = call(sample, ['--ckpt', path, '24 8 6 4'])
    assert code == 0, err
    said = [{'follows': 'yes', 'does not follow': 'no'}[line[3]] for line in lines_of_tokens(out)]
    assert ' '.join(said) == follows
    assert final_values(out)['right'] == str(right)


@pytest.mark.parametrize('chain, right', [('no', 1), ('yes 13 + 13 = 26', 0)])
def test_countdown_where_nothing_can_be_done(ckpt, monkeypatch, chain, right):
    path = ckpt('train_cot', '--task countdown')
    dictate(monkeypatch, Countdown().encode(chain))
    code, out, err = call(sample, ['--ckpt', path, '24 13 13'])
    assert code == 0, err
    assert final_values(out)['right'] == str(right)


def test_a_direct_countdown_model_writes_one_word(ckpt, monkeypatch):
    path = ckpt('train_cot', '--task countdown --mode direct')
    for word, right in (('yes', '1'), ('no', '0')):
        dictate(monkeypatch, Countdown().encode(word))
        code, out, err = call(sample, ['--ckpt', path, '24 8 6 4'])
        assert code == 0, err
        assert final_values(out)['right'] == right and 'moves' not in out


@pytest.mark.parametrize('path, right, follows', [
    ('(0,0) (1,0) (1,1) (1,2) (2,2) <PATH_END>', 1, 'yes yes yes yes yes yes'),
    ('(0,0) (0,1) (1,1) (1,2) (2,2) <PATH_END>', 0, 'yes no yes yes yes yes'),
    ('(1,0) (1,1) (1,2) (2,2) <PATH_END>', 0, 'no yes yes yes yes'),
    ('(0,0) (1,0) <PATH_END>', 0, 'yes yes no'),
    ('(0,0) (1,0) (0,0) (1,0) (1,1) (1,2) (2,2) <PATH_END>', 0, ' '.join(['yes'] * 8)),  # a detour
    ('; ' * 10, 0, ' '.join(['no'] * 10)),                  # never ends
])
def test_a_path_must_be_a_shortest_one(ckpt, monkeypatch, path, right, follows):
    file = ckpt('train_maze', '--grid 3 --format adjlist')
    dictate(monkeypatch, Maze(grid=[3]).encode(path))
    code, out, err = call(sample, ['--ckpt', file, maze_text(COMB, '0,0', '2,2')])
    assert code == 0, err
    said = [{'follows': 'yes', 'does not follow': 'no'}[line[3]] for line in lines_of_tokens(out)]
    assert ' '.join(said) == follows
    assert final_values(out)['right'] == str(right)


@pytest.mark.parametrize('flags', ['--task cvpr --hops 1-3', '--task multiply --digits 2',
                                   '--task star', '--task star --reverse', '--task profiles'])
@pytest.mark.parametrize('spoilt', [False, True])
def test_the_true_chain_is_right_in_every_task(ckpt, monkeypatch, flags, spoilt):
    path = ckpt('train_cot', flags)
    _, task = common.load_model(path)
    for step in range(4):
        batch = sample_batch(task, 1, 5, step, 'test')
        chain = task.oracle(batch.tokens[0, :batch.prompt_len].tolist())
        if spoilt:
            chain[-1] = task.pad
        dictate(monkeypatch, chain)
        prompt = task.decode(batch.tokens[0, :batch.prompt_len].tolist())
        code, out, err = call(sample, ['--ckpt', path, prompt])
        assert code == 0, err
        assert final_values(out)['right'] == str(int(not spoilt))
        assert ('does not follow' in out) == spoilt


# -----------------------------------------------------------------------------
# what the model does

@pytest.mark.parametrize('flags', ['--hops 1-3 --nodes 6', '--format pairs --nodes 6',
                                   '--task multiply --digits 2', '--task profiles'])
def test_chain_and_probabilities_are_those_of_generate(ckpt, flags):
    model, task = common.load_model(ckpt('train_cot', flags))
    for step in range(5):
        batch = sample_batch(task, 1, 0, step, 'test')
        P = batch.prompt_len
        n = batch.tokens.size(1) - P
        output, logp = model.generate(batch.tokens[:, :P], n, return_logp=True)
        chain, probabilities = sample.think(model, task, batch, 'cot')
        assert chain == output[0, P:].tolist()
        p = probabilities[torch.arange(n), chain]
        torch.testing.assert_close(p.log(), logp[0], atol=1e-5, rtol=1e-4)


def test_temperature_samples_from_what_is_shown(ckpt):
    model, task = common.load_model(ckpt('train_cot', '--hops 3 --nodes 5 --mode both'))
    batch = sample_batch(task, 1, 0, 0, 'test')
    logits = model(batch.tokens[:, :batch.prompt_len])[0, -1].detach()
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(task.vocab))
    for _ in range(100):
        chain, probabilities = sample.think(model, task, batch, 'cot', 2.0, generator)
        counts[chain[0]] += 1
        assert (probabilities.sum(dim=1) - 1).abs().max() < 1e-5
        assert torch.allclose(probabilities[0], (logits / 2).softmax(dim=-1), atol=1e-5)
    assert (counts / 100 - probabilities[0]).abs().max() < 0.15


@pytest.mark.parametrize('flags', [
    '--grid 3 --format adjlist', '--grid 3 --format grid --loss mlmu',
    '--grid 3-4 --format grid --gen percolation', '--grid 3-4 --loss full --format adjlist'])
def test_mazes_are_written_and_judged_as_in_train_maze(ckpt, flags):
    model, task = common.load_model(ckpt('train_maze', flags))
    for step in range(6):
        batch = sample_batch(task, 1, 0, step, 'test')
        chain, _ = sample.think(model, task, batch, 'cot')
        paths = train_maze.write_paths(model, task, batch)
        assert (chain + [task.path_end] * task.answer_len)[:task.answer_len] == paths[0].tolist()

        # random walks are right now and then
        walks = train_maze.walk(task, batch, True, np.random.default_rng(step))
        written = walks[0].tolist()
        if task.path_end in written:
            written = written[:written.index(task.path_end) + 1]
        _, is_right = sample.check(task, batch, written, 'cot')
        assert is_right == bool(train_maze.score_paths(task, batch, walks)['shortest'])


@pytest.mark.parametrize('script, flags', [
    ('train_rl', '--hops 1-3'), ('train_rl', '--format pairs --nodes 6 --hops 1-2'),
    ('train_cot', '--task profiles'), ('train_cot', '--task profiles --hops 1'),
    ('train_cot', '--task profiles --mode direct'),
    ('train_maze', '--grid 3 --format grid --loss mlmu'),
    ('train_maze', '--grid 3 --format adjlist --test_grid 4'), ('train_cot', '--task countdown')])
def test_checkpoints_of_the_trainers(ckpt, script, flags):
    path = ckpt(script, flags)
    code, out, err = call(sample, ['--ckpt', path, '--n', '4', '--temperature', '1'])
    assert code == 0, err
    assert final_values(out)['n'] == '4'
    prompt = out.split('prompt  ')[1].split('\n')[0]
    code, out, err = call(sample, ['--ckpt', path, prompt])
    assert code == 0, err
    assert f'prompt  {prompt}\n' in out


@pytest.mark.parametrize('flags', ['', '--hops 2 --attributes 2 --relations 2',
                                   '--hops 2 --cot --attributes 2 --relations 2'])
def test_checkpoints_of_capacity(tmp_path, flags):
    words = ['--sizes', '3000', '--people', '20', '--steps', '2', '--exposures', '2']
    code, _, err = call(capacity, [*flags.split(), *words, '--out_dir', str(tmp_path)])
    assert code == 0, err
    path, = tmp_path.glob('ckpt*.pt')
    code, out, err = call(sample, ['--ckpt', str(path), '--n', '6'])
    assert code == 0, err
    prompt = out.split('prompt  ')[1].split('\n')[0]
    code, out, err = call(sample, ['--ckpt', str(path), prompt])
    assert code == 0, err


# -----------------------------------------------------------------------------
# what is shown

def test_a_maze_is_drawn():
    task = Maze(grid=[2], format='grid')
    batch = sample.read_prompt(task, 'cot', MAZE_2)
    assert sample.draw_maze(task, batch, task.encode(PATH_2)) == [
        '+---+---+',
        '| *   X |',
        '+   +---+',
        '| *   O |',
        '+---+---+']

    task = Maze(grid=[3])
    batch = sample.read_prompt(task, 'cot', maze_text(COMB, '0,0', '2,2'))
    assert sample.draw_maze(task, batch, task.encode('(0,0) (1,0) (1,1) (1,2) (0,2)')) == [
        '+---+---+---+',
        '| O |   | * |',
        '+   +   +   +',
        '| *   *   * |',
        '+   +   +   +',
        '|   |   | X |',
        '+---+---+---+']


def can_be_made(numbers, target):
    """By trying everything: numbers 0 .. 199, exact quotients."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            if i == j or numbers[i] < numbers[j]:
                continue
            a, b = numbers[i], numbers[j]
            rest = [numbers[k] for k in range(len(numbers)) if k not in (i, j)]
            results = [a + b, a - b, a * b]
            if b > 0 and a % b == 0:
                results.append(a // b)
            if any(c < 200 and can_be_made([*rest, c], target) for c in results):
                return True
    return False


@pytest.mark.parametrize('prompt', ['24 8 6 4', '24 4 6 8 10', '24 13 13', '10 0 5 5'])
def test_the_moves_of_countdown(ckpt, prompt):
    path = ckpt('train_cot', '--task countdown')
    code, out, err = call(sample, ['--ckpt', path, prompt])
    assert code == 0, err
    target, *numbers = map(int, prompt.split())
    shown = []
    for line in out.split('  moves (')[1].split('\n')[1:11]:
        words = line.split()
        if len(words) < 6 or words[3] != '=':
            break
        shown.append((words[:5], float(words[5]), len(words) > 6))

    children = set()
    for (a, op, b, _, c), p, is_good in shown:
        a, b, c = int(a), int(b), int(c)
        assert c == {'+': a + b, '-': a - b, '*': a * b, '/': a // max(b, 1)}[op]
        rest = list(numbers)
        rest.remove(a)
        rest.remove(b)
        assert is_good == can_be_made([*rest, c], target)
        assert 0 <= p <= 1
        children.add(tuple(sorted([*rest, c])))
    assert len(children) == len(shown) > 0          # no move twice
    assert [p for _, p, _ in shown] == sorted((p for _, p, _ in shown), reverse=True)
    assert sum(p for _, p, _ in shown) <= 1.001


def test_the_probability_of_a_move_is_that_of_its_tokens(ckpt):
    path = ckpt('train_cot', '--task countdown')
    model, task = common.load_model(path)
    batch = sample.read_prompt(task, 'cot', '24 8 6 4')
    steps = torch.tensor([task.encode('8 - 4 = 4'), task.encode('6 * 4 = 24')])
    args = sample.parse_args(['--ckpt', path, '--device', 'cpu'])
    p = sample.probability_of_steps(model, task, batch, steps, args)
    for step, written in zip(steps.tolist(), p.tolist(), strict=True):
        tokens = batch.tokens[:1, :batch.prompt_len].tolist()[0] + [task.yes]
        product = 1.0
        for token in step:
            product *= model(torch.tensor([tokens]))[0, -1].softmax(dim=0)[token].item()
            tokens.append(token)
        assert written == pytest.approx(product, rel=1e-4)


# -----------------------------------------------------------------------------
# the command line

def test_asks_again_and_again(ckpt, monkeypatch):
    path = ckpt('train_cot', '--hops 3 --nodes 5 --mode both')
    typed = '3 0 1 4 2 k=3 3\nwhat is this?\n\n3 0 1\n1 2 3 4 0 k=3 0\n'
    monkeypatch.setattr('sys.stdin', io.StringIO(typed))
    code, out, err = call(sample, ['--ckpt', path, '-i'])
    assert code == 0 and err == ''
    assert final_values(out)['n'] == '3'
    assert out.count('is no prompt of this model') == 2


def test_held_out_instances_have_the_hops_that_were_asked_for(ckpt):
    path = ckpt('train_cot', '--hops 1-3 --nodes 6')
    code, out, err = call(sample, ['--ckpt', path, '--hops', '2', '--n', '5'])
    assert code == 0, err
    assert out.count(' k=2 ') == 5 and out.count('answer ') == 5


def test_a_model_that_is_loaded_is_ready_to_answer(ckpt):
    """With dropout, if somebody adds it, answers would differ from one time to the next."""
    path = ckpt('train_cot', '--hops 1-3 --nodes 6')
    assert not common.load_model(path)[0].training
    assert not common.load_trained(path)[0].training


@pytest.mark.parametrize('typed', [None, '\n' * 12])
def test_instances_that_are_drawn_were_held_out(ckpt, monkeypatch, typed):
    """One after the other, or where an empty line asks for one. A seed draws its own."""
    path = ckpt('train_cot', '--hops 1-3 --nodes 6')
    tables = {}
    for seed in ('1', '2'):
        argv = ['--ckpt', path, '--seed', seed]
        if typed:
            monkeypatch.setattr('sys.stdin', io.StringIO(typed))
            argv += ['-i']
        else:
            argv += ['--n', '12']
        code, out, err = call(sample, argv)
        assert code == 0, err
        prompts = re.findall(r'^(?:prompt> )*prompt  (.*)$', out, re.MULTILINE)
        tables[seed] = [tuple(map(int, prompt.split()[:6])) for prompt in prompts]
        assert len(tables[seed]) == 12 and held_out(np.array(tables[seed])).all()
    assert tables['1'] != tables['2'] and len(set(tables['1'])) > 3


@pytest.mark.parametrize('words, why', [
    (['--hops', '4'], 'reaches 3 hops, not 4'),
    (['--hops', '3-5'], 'reaches 3 hops, not 3-5'),
    (['-i', '--hops', '7'], 'reaches 3 hops, not 7'),
    (['1 2 3 4 5 0 k=3 0', '-i'], 'a prompt comes alone'),
    (['1 2 3 4 5 0 k=3 0', '--hops', '2'], 'a prompt comes alone'),
    (['out/run/ckpt.pt'], 'a checkpoint is named by --ckpt'),
    ([''], '0 words'),
    (['   '], '0 words'),
    (['1 2 3'], '3 words'),
    (['1', '2', '3'], 'unrecognized'),
    (['--n', '0'], 'at least 1'),
    (['--temperature', '-1'], 'at least 0'),
    (['--temperature', 'nan'], 'at least 0'),
    (['--device', 'abacus'], 'not available'),
])
def test_mistakes_end_in_one_line(ckpt, words, why):
    path = ckpt('train_cot', '--hops 1-3 --nodes 6')
    code, _, err = call(sample, ['--ckpt', path, *words])
    assert code == 2 and why in err
    assert err.count('\n') == 1


def test_a_checkpoint_that_is_none(tmp_path, monkeypatch):
    code, _, err = call(sample, ['--ckpt', str(tmp_path / 'none.pt')])
    assert code == 2 and 'there is no checkpoint' in err
    (tmp_path / 'bad.pt').write_text('hello')
    code, _, err = call(sample, ['--ckpt', str(tmp_path / 'bad.pt')])
    assert code == 2 and 'not a checkpoint' in err
    monkeypatch.chdir(tmp_path)
    code, _, err = call(sample, [])
    assert code == 2 and 'python train_cot.py --hops 4' in err


# -----------------------------------------------------------------------------
# a task of one's own, without `read`: the one of README

class Sum(Task):
    """Add numbers modulo 10: 3 9 4 = [3] [2] [6]"""
    name = 'sum'
    flags = {'terms': dict(type=int, help='how many numbers')}
    answer_len = 1

    def __init__(self, terms=5):
        self.terms = terms
        self.hops = [terms]
        self.vocab = [*'0123456789=_']
        self.n_symbols = 10
        self.pad = 11
        self.block_size = 2 * terms + 1

    def draw(self, rng, hops):
        numbers = rng.integers(10, size=(len(hops), self.terms))
        return numbers, numbers

    def write(self, rng, source, hops):
        prompt = np.column_stack((source, np.full(len(source), 10)))
        return prompt, source.cumsum(axis=1) % 10, hops, source

    def valid(self, batch, chain):
        before = torch.cat((0 * chain[:, :1], chain[:, :-1]), dim=1)
        return chain == (before + batch.instance) % 10

    def oracle(self, prompt):
        return [sum(prompt[:i + 1]) % 10 for i in range(self.terms)]

    def chance(self, hops):
        return 0.1


def test_a_task_without_read(tmp_path, monkeypatch):
    recipe = dict(n_layer=1, n_head=1, n_embd=16, batch_size=8, learning_rate=1e-3, max_iters=2)
    monkeypatch.setattr(train_cot, 'TASKS', (*train_cot.TASKS, Sum))
    monkeypatch.setitem(train_cot.RECIPES, 'sum', recipe)
    words = '--task sum --mode cot --n_test 8 --out_dir'.split()
    code, _, err = call(train_cot, [*words, str(tmp_path)])
    assert code == 0, err
    path = str(tmp_path / 'ckpt.pt')
    code, _, err = call(sample, ['--ckpt', path])
    assert code == 2 and err.count('\n') == 1

    monkeypatch.setattr(common, 'ALL_TASKS', (*common.ALL_TASKS, Sum))
    code, out, err = call(sample, ['--ckpt', path])
    assert code == 0 and final_values(out)['n'] == '3', err
    code, _, err = call(sample, ['--ckpt', path, '3 9 4 1 1 ='])
    assert code == 2 and 'has no method `read`' in err and err.count('\n') == 1
    monkeypatch.setattr('sys.stdin', io.StringIO('3 9 4 1 1 =\n\n'))
    code, out, err = call(sample, ['--ckpt', path, '-i'])
    assert code == 0 and 'has no method `read`' in out and final_values(out)['n'] == '1', err


def test_its_read_is_used_once_there_is_one(monkeypatch):
    def read(self, prompt):
        data.require(len(prompt) == self.terms + 1, f'it needs {self.terms} numbers and =')
        return np.array([prompt[:-1]]), np.array([self.terms])

    monkeypatch.setattr(Sum, 'read', read)
    task = Sum()
    batch = sample.read_prompt(task, 'cot', '3 9 4 1 1 =')
    assert chain_of(batch) == [3, 2, 6, 7, 8]
    assert '5 numbers' in refused(task, '3 9 4')
    refused(task, '3 9 4 1 = 1')
