"""jacobi.py: the rounds it counts, against a plain loop that decodes one row at a time."""

import json

import pytest
import torch
from conftest import call, change_checkpoint, final_values, save_checkpoint

import common
import jacobi
import train_cot
from data import sample_batch
from model import GPT


CHECKPOINTS = {
    'countdown': '--task countdown --numbers 3 --mode cot',
    'verdicts': '--task countdown --mode direct',
    'cycle': '--nodes 6 --hops 1-2 --mode cot',
    'multiply': '--task multiply --digits 1 --mode cot',
}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """{name: path} of models with large random weights, saved as train_cot saves them."""
    folder = tmp_path_factory.mktemp('checkpoints')
    paths = {}
    for name, argv in CHECKPOINTS.items():
        args = train_cot.parse_args(f'{argv} --n_layer 1 --n_head 1 --n_embd 16'.split())
        _, config = train_cot.fill_in(args)
        torch.manual_seed(0)
        model = GPT(config)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.3 if p.dim() == 2 else torch.rand_like(p) + 0.5)
        paths[name] = folder / f'{name}.pt'
        save_checkpoint(paths[name], model, {'script': 'train_cot', **vars(args)}, args.mode)
    return paths


def read_log(folder):
    with open(folder / 'log.jsonl') as f:
        return [json.loads(line) for line in f]


def run_jacobi(*argv):
    """jacobi.py in this process: its lines before the last one, and the last one's values."""
    code, out, err = call(jacobi, ['--device', 'cpu', *map(str, argv)])
    assert code == 0, err
    return out.strip().split('\n')[:-1], final_values(out)


def n_loss_tokens(name, task, row, prompt_len, hops):
    """How many tokens of a row's chain carry loss."""
    if name == 'cycle':
        return hops
    if name == 'multiply':
        return 4
    is_no = row[prompt_len] == task.no
    return 1 if is_no or name == 'verdicts' else 6


@torch.no_grad()
def plain_rounds(model, prompt, n_new, n_loss):
    """In which round did the first n_loss of n_new tokens change last?"""
    guess = [0] * n_new
    last_change = 0
    for i in range(1, n_new + 2):
        logits = model(torch.tensor([prompt + guess]))[0]
        new = logits[len(prompt) - 1:-1].argmax(dim=-1).tolist()
        if new == guess:
            return last_change
        if new[:n_loss] != guess[:n_loss]:
            last_change = i
        guess = new
    raise AssertionError('a guess must be final after as many rounds as it has tokens')


@pytest.mark.parametrize('name, hops, lengths', [
    ('countdown', [1, 2], {1, 6}),      # a 'no' asks for nothing behind it
    ('verdicts', [1, 2, 3], {1}),
    ('cycle', [1, 2], {1, 2}),
    ('multiply', [1], {4}),
])
def test_rounds_are_those_after_which_the_loss_tokens_are_final(
        name, hops, lengths, checkpoints, tmp_path):
    lines, final = run_jacobi('--ckpt', checkpoints[name], '--n_test', 30, '--out_dir', tmp_path)
    records = [record for record in read_log(tmp_path) if record['arm'] == 'row']
    assert [record['hops'] for record in records] == hops
    rows = [line for line in lines if line.startswith('k=')]
    assert len(rows) == len(hops)
    assert lines[-1] == (f'A chain of {records[-1]["tokens"]:.2f} tokens is final after '
                         f'{records[-1]["rounds"]:.2f} rounds; one token after the other takes '
                         f'{records[-1]["tokens"]:.2f}.')

    model, state = common.load_checkpoint(checkpoints[name])
    task = common.task_of_checkpoint(checkpoints[name], state, jacobi.TASKS)
    model.eval()
    seen = set()
    for record, k in zip(records, hops, strict=True):
        batch = sample_batch(task, 30, 1337, k * 10**6, 'test', state['mode'], k)
        P = batch.prompt_len
        rounds = []
        tokens = []
        for row in batch.tokens.tolist():
            n_loss = n_loss_tokens(name, task, row, P, k)
            rounds.append(plain_rounds(model, row[:P], len(row) - P, n_loss))
            tokens.append(n_loss)
        assert record['rounds'] == pytest.approx(sum(rounds) / 30)
        assert record['most'] == max(rounds)
        assert record['tokens'] == pytest.approx(sum(tokens) / 30)
        assert record['equal'] == 1
        seen |= set(tokens)
    assert seen == lengths

    assert final['method'] == 'jacobi' and final['task'] == task.name
    assert (final['hops'], final['n_test'], final['equal']) == (str(hops[-1]), '30', '1.000')
    assert final['rounds'] == f'{records[-1]["rounds"]:.3f}'
    assert int(final['params']) == model.num_params()


def test_a_run_leaves_its_config_and_its_log_in_a_folder_named_by_the_command(
        checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_jacobi('--ckpt', checkpoints['cycle'], '--n_test', 5)
    folder, = (tmp_path / 'out').iterdir()
    assert folder.name.startswith('jacobi-ckpt_') and folder.name.endswith('-n_test_5')
    assert {path.name for path in folder.iterdir()} == {'config.json', 'log.jsonl'}
    config = json.loads((folder / 'config.json').read_text())
    assert config['args']['script'] == 'jacobi' and config['args']['n_test'] == 5
    assert [record['arm'] for record in read_log(folder)] == ['row', 'row', 'final']


def test_two_processes_count_what_one_counts(checkpoints, two_processes, tmp_path):
    """Seven instances do not divide by two."""
    argv = ['--ckpt', str(checkpoints['cycle']), '--n_test', '7', '--device', 'cpu', '--out_dir']
    done = two_processes('jacobi.py', *argv, tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final method=') == 1  # rank 0 alone prints
    assert done.stdout.count('k=1:') == 1
    run_jacobi(*argv, tmp_path / 'one')
    assert read_log(tmp_path / 'one')[:-1] == read_log(tmp_path / 'two')[:-1]


@pytest.mark.parametrize('argv, message', [
    ('', '--ckpt'),
    ('--ckpt nowhere.pt', 'nowhere.pt'),
    ('--ckpt . --n_test 5', 'checkpoint'),
    ('--ckpt nowhere.pt --n_test 0', 'n_test'),
])
def test_bad_input_is_one_line_and_leaves_nothing(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(jacobi, argv.split())
    assert code == 2 and out == '' and err.count('\n') == 1 and message in err
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_of_a_maze_is_refused(checkpoints, tmp_path):
    change_checkpoint(checkpoints['cycle'], tmp_path / 'maze.pt',
                      lambda state: state['args'].update(script='train_maze', task='maze'))
    with pytest.raises(ValueError, match='train_maze.py'):
        jacobi.main(['--ckpt', str(tmp_path / 'maze.pt'), '--out_dir', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()
