"""What a user meets: one line and exit code 2 for every mistake, the commands of README, results
that are what the logs say, and the rules of the house."""

import ast
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading

import pytest
import torch
from conftest import ROOT, call, final_values, run_script

import bench
import capacity
import countdown
import data
import jacobi
import maze
import memory
import plots
import probe
import profiles
import sample
import scaling
import search
import train_cot
import train_latent
import train_maze
import train_puzzles
import train_rl
from common import default_folder


SCRIPTS = {
    'train_cot.py': train_cot,
    'train_rl.py': train_rl,
    'train_puzzles.py': train_puzzles,
    'train_maze.py': train_maze,
    'train_latent.py': train_latent,
    'search.py': search,
    'jacobi.py': jacobi,
    'capacity.py': capacity,
    'scaling.py': scaling,
    'probe.py': probe,
    'sample.py': sample,
    'bench.py': bench,
    'plots.py': plots,
    'data.py': data,
    'countdown.py': countdown,
    'profiles.py': profiles,
    'maze.py': maze,
}
TRAINERS = ('train_cot.py', 'train_rl.py', 'train_maze.py', 'train_latent.py')
RUNS = (*TRAINERS, 'train_puzzles.py', 'search.py', 'jacobi.py', 'capacity.py', 'scaling.py',
        'probe.py')  # they leave a folder
README = (ROOT / 'README.md').read_text(encoding='utf-8')
DOCUMENTS = [ROOT / 'README.md', ROOT / 'results' / 'README.md', *sorted(ROOT.glob('docs/*.md'))]


# -----------------------------------------------------------------------------
# mistakes

BAD = {
    'train_cot.py': [
        '--hops 0', '--hops -1', '--hops 20', '--hops 5-2', '--hops four', '--hops 1.5',
        '--hops 0-3', '--hops 4-', '--hops 1-10000000000', '--nodes 1', '--nodes 2 --hops 1',
        '--nodes x', '--nodes 100000000', '--task mazes', '--task maze', '--grid 4',
        '--task star --hops 2', '--task star --star 2', '--task star --star 1,3',
        '--task star --star 5,5 --nodes 20', '--task star --mode both',
        '--task star --nodes 100000000', '--task multiply --nodes 10', '--task multiply --digits 0',
        '--task multiply --digits 10', '--task cycle --digits 3', '--reverse', '--format list',
        '--n_head 5', '--n_head 0', '--n_layer 0', '--n_embd -64', '--n_loop 0', '--batch_size 0',
        '--batch_size 10 --grad_accum 4', '--steps 0', '--steps many', '--lr 0', '--lr -1',
        '--lr nan', '--lr inf', '--lr 1e400', '--grad_clip 0', '--weight_decay -1',
        '--warmup_iters -5', '--eval_interval 0', '--log_interval 0', '--n_test 0', '--seed -1',
        '--seed 18446744073709551616', '--device tpu', '--device cuda:99', '--device hpu',
        '--device privateuseone', '--dtype float8', '--mode chain', '--n_lay 2', '--unknown 3',
        'hops', '--eval_only', '--ckpt nowhere.pt', '--eval_only --ckpt nowhere.pt',
        '--eval_only --ckpt .', '--compile yes', '--numbers 4', '--people 10',
        '--task countdown --numbers 1', '--task countdown --numbers 7',
        '--task countdown --hops 2', '--task countdown --holdout_targets 7',
        '--task countdown --holdout_targets 24,x', '--task countdown --holdout_targets',
        '--task profiles --hops 3', '--task profiles --people 1', '--task profiles --relations 18',
        '--task profiles --relations 0', '--task profiles --nodes 10',
        '--task profiles --bipartite --people 7',
        # too large: refused by a bound, or because it takes more memory than there is
        '--n_layer 1001', '--n_loop 1001', '--n_embd 65537', '--n_layer 1000 --n_loop 1000',
        '--steps 1000000001', '--seed 9223372036854775808', '--warmup_iters 1000000001',
        '--n_embd 65536 --n_layer 1000', '--batch_size 1000000000', '--n_test 1000000000',
        '--nodes 100000 --hops 1-999 --batch_size 100000', '--hops 1-5000 --nodes 100000',
        '--task profiles --people 1000000 --attributes 999 --relations 17 --relabel',
        '--task star --star 1000000000,1000000000', '--task star --star 2,3,4',
        # numbers that are not plain digits, and words that nobody can mean
        '--n_test 1_000', '--n_test \u0663', '--n_test 1e3', '--n_test 0x10', '--n_test +5',
        '--n_test -', '--n_test --', '--n_test=--', '--n_test=', '--hops=', '--out_dir=', '--',
        '--lr 1_0', '--lr 1e', '--lr .', '--lr -inf', '--lr 1e10', '--nodes \u0661\u0662',
        '--weight_decay 1e300', '--mode=', '--task=--', '--ckpt=--', '-', '-n 5',
    ],
    'train_rl.py': [
        '--hops 0', '--hops 10', '--nodes 0', '--nodes 2', '--task maze',
        '--task star --curriculum', '--task multiply --hops 2', '--task countdown',
        '--task profiles', '--star 2,3',
        '--baseline critic', '--objective max', '--k 4', '--objective passk --k 9',
        '--objective passk --k 0', '--objective passk --baseline ema',
        '--objective passk --baseline prefix', '--group_size 0', '--group_size 1',
        '--group_size 1 --baseline prefix', '--rollouts 0', '--temperature 0', '--temperature -1',
        '--entropy -1', '--entropy nan', '--pos sine', '--pos rope --n_embd 4 --n_head 4',
        '--n_head 5', '--curriculum yes', '--batch_size 0', '--steps 0', '--lr 0',
        '--log_interval 0', '--test_hops 10', '--test_hops 0', '--init_from nowhere.pt',
        '--init_from .', '--eval_only', '--ckpt x.pt', '--eval_only --ckpt nowhere.pt',
        '--device tpu', '--grad_accum 2', '--hop 3',
        '--group_size 1000000000', '--batch_size 100000000', '--n_loop 100000', '--k 1e2',
        '--baseline prefix --rollouts 100000000', '--objective passk --k 100000000000000000000',
        '--test_hops 1-1001', '--entropy 1e300', '--temperature 0.001',
    ],
    'train_puzzles.py': [
        '', '--init_from nowhere.pt', '--init_from .', '--targets 5', '--targets 24,x',
        '--targets=', '--target 0', '--baseline ema', '--objective passk', '--group_size 1',
        '--temperature 0', '--entropy -1', '--batch_size 0', '--steps 0', '--lr 0',
        '--warmup_iters -1', '--log_interval 0', '--pass_k 0', '--seed -1', '--device tpu',
        '--eval_only', '--task countdown', '--hops 2', 'ckpt.pt',
    ],
    'train_maze.py': [
        '--grid 2', '--grid 2-4', '--grid 1', '--grid 31', '--grid 0', '--grid 5-3', '--grid 4,5',
        '--grid x', '--test_grid 2', '--test_grid 0', '--test_grid 40',
        '--grid 2 --gen percolation --percolation 0.99', '--loss mlmu --pos none', '--gen prim',
        '--percolation 0.2', '--gen percolation --percolation 0',
        '--gen percolation --percolation 1.5', '--format text', '--no_separators', '--loss half',
        '--beta 1', '--loss graded --beta -1', '--loss graded --beta nan', '--n_layer 0',
        '--n_head 5', '--pos sine', '--pos rope --n_embd 4 --n_head 4', '--n_loop 0',
        '--batch_size 0', '--steps 0', '--lr 0', '--lr nan', '--warmup_iters -1',
        '--weight_decay -1', '--eval_interval 0', '--log_interval 0', '--n_test 0', '--seed -1',
        '--device tpu', '--device cuda:99', '--dtype float8', '--eval_only', '--ckpt x.pt',
        '--eval_only --ckpt nowhere.pt', '--eval_only --ckpt .', '--task maze', '--hops 4',
        '--gri 4', 'grid', '--compile', '--grid 10 --loss full --batch_size 1000000',
        '--n_layer 1000 --n_embd 65536', '--loss graded --beta 1e300', '--grid 2-1000000',
    ],
    'train_latent.py': [
        '--feed thought', '--feed soft,', '--feed soft,soft', '--feed=', '--hops 1', '--hops 10',
        '--hops 0', '--nodes 2', '--task multiply', '--task star', '--task maze', '--star 2,3',
        '--test_hops 4', '--test_hops 10', '--test_hops 0', '--n_head 5', '--n_layer 0',
        '--n_loop 0', '--batch_size 0', '--steps 0', '--lr 0', '--lr nan', '--warmup_iters -1',
        '--weight_decay -1', '--eval_interval 0', '--n_test 0', '--seed -1', '--device tpu',
        '--dtype float8', '--eval_only', '--ckpt x.pt', '--eval_only --ckpt nowhere.pt',
        '--share_position yes', '--compile', '--mode cot', '--batch_size 100000000',
        '--n_layer 1000 --n_embd 65536', '--hops 1-1001 --nodes 5000', 'soft',
    ],
    'search.py': [
        '', '--ckpt nowhere.pt', '--ckpt .', '--method astar', '--b 0', '--k 0', '--samples 0',
        '--prune -1', '--prune nan', '--budget 0', '--temperature 0', '--n_test 0', '--target -1',
        '--target x', '--propose some', '--resume', '--jacobi', '--device tpu --ckpt x.pt',
        'puzzles.txt',
    ],
    'jacobi.py': [
        '', '--ckpt nowhere.pt', '--ckpt .', '--n_test 0', '--n_test x', '--k 4', '--resume',
        '--device tpu --ckpt x.pt', 'ckpt.pt',
    ],
    'probe.py': [
        '', '--ckpt nowhere.pt', '--ckpt .', '--layers x', '--layers 1,,2', '--layers 0.5',
        '--layers 1-2', '--positions x', '--positions 3,', '--n_train 0', '--n_train x',
        '--n_train 1e3', '--n_test 1', '--n_patch 1', '--seed -1', '--seed 18446744073709551616',
        '--dtype float8', '--device tpu --ckpt x.pt', '--resume', '--hops 2', '--task cycle',
        '--layer 1', 'ckpt.pt',
    ],
    'sample.py': [
        '', '--ckpt nowhere.pt', '--ckpt .', '--n 0', '--hops 0', '--temperature -1',
        '--temperature nan', '--seed -1', '--device tpu --ckpt x.pt', '--resume', 'a b',
        '-i k=4 --ckpt x.pt', '--task cycle', '--n 1000000001', '--temperature 0.001',
    ],
    'capacity.py': [
        '--hops 3', '--hops \u0661', '--sizes 1000000001', '--sizes 0', '--sizes 10,,20',
        '--sizes 1000000000', '--people 1', '--people 1000001', '--fill 0', '--fill 1e300',
        '--exposures 10000001', '--steps 10000001', '--n_layer 101', '--n_loop 101', '--cot',
        '--smallest', '--relations 18', '--attributes 1000',
        '--people 1000000 --attributes 999 --relations 17', '--sizes 100000000,100000000',
        '--people 1000000 --exposures 1000000 --steps 1', '--device tpu', '--resume=',
    ],
    'scaling.py': [
        '--arms spoken', '--arms written,', '--arms written,written', '--arms=', '--hops 10',
        '--hops 0', '--hops 1-4', '--nodes 2', '--nodes 1001', '--largest_pool 1000',
        '--largest_pool 1', '--smallest_pool 64 --largest_pool 32', '--largest_pool 536870912',
        '--rates 0', '--rates 1e-3,', '--rates nan', '--n_seeds 0', '--n_seeds 101', '--steps 0',
        '--batch_size 0', '--batch_size 100000000', '--n_head 5', '--n_embd 0', '--weight_decay -1',
        '--n_test 3', '--seed -1', '--device tpu', '--dtype float8', '--eval_only', '--tune',
        '--task cvpr', '--bits 9', '--task parity --nodes 9', '--task parity --hops 17',
        '--task parity --bits 3', '--task parity --bits 61', '--measure depth', '--measure pools,',
        '--learned_by heart', '--lr 1e-3', 'written',
    ],
    'bench.py': ['--config cycle', '--repeats 0', '--repeats 10000000000', '--device tpu', 'x'],
    'plots.py': ['', 'nowhere', '.', 'a b', '--out x.png'],
    'data.py': ['--task maze', '--n 0', '--hops 20', '--star 2,3', '--digits 3', 'cycle',
                '--nodes 100001', '--n 1000000001', '--hops 1-1001 --nodes 5000', '--digits 1_0'],
    'countdown.py': ['--task countdown', '--numbers 6', '--hops 2', '--n 0', '--n 3.0'],
    'profiles.py': ['--people 1', '--hops 3', '--task cycle', '--people 1000001',
                    '--people 1000000 --relabel --relations 17 --attributes 999'],
    'maze.py': ['--grid 31', '--percolation 0.5', '--gen prim', '--grid 1000000-1000000'],
}


def all_bad():
    for name, command_lines in BAD.items():
        for command_line in command_lines:
            yield pytest.param(name, command_line, id=f'{name} {command_line}')


@pytest.mark.parametrize('name, command_line', list(all_bad()))
def test_a_mistake_is_one_line_and_writes_nothing(name, command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, 'free_memory', lambda: 8 * 2**30)  # on machines with more, too
    code, out, err = call(SCRIPTS[name], command_line.split())
    assert code == 2 and out == ''
    assert err.count('\n') == 1 and len(err) > 20 and 'Traceback' not in err
    assert list(tmp_path.iterdir()) == []


LONG = 'x' * 10000
STRANGE = ['', ' 5 ', '\0', 'a\0b', '\udcff', '1' * 5000, 'nan', 'inf', LONG]


@pytest.mark.parametrize('word', STRANGE, ids=range(len(STRANGE)))
@pytest.mark.parametrize('flag', ['--n_test', '--hops', '--lr', '--task', '--ckpt'])
def test_a_strange_word_is_one_short_line(flag, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in ([flag, word], [f'{flag}={word}']):
        code, out, err = call(train_cot, argv)
        assert code == 2 and out == '' and err.count('\n') == 1 and len(err) < 700
        assert 'Traceback' not in err and '(in ' not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flag', ['--out_dir', '--device', '--ckpt'])
def test_a_name_that_no_file_system_takes_is_refused(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (LONG, 'x' * 256, 'a/' * 3000):
        code, _, err = call(jacobi, ['--ckpt', 'c.pt', flag, name])
        assert code == 2 and 'too long' in err and len(err) < 200
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_says_what_it_takes_and_what_to_lower():
    code, _, err = call(train_cot, ['--batch_size', '1000000000'])
    assert code == 2 and re.search(r'takes about [\d,]+ GiB of memory \(activations', err), err
    assert 'lower --batch_size' in err
    _, _, err = call(train_cot, ['--n_embd', '65536', '--n_layer', '100'])
    assert '(model' in err and 'lower --n_embd' in err
    _, _, err = call(train_cot, ['--nodes', '100000', '--n_test', '1000000'])
    assert '(evaluation' in err and 'lower --nodes, --n_embd, or --n_test' in err
    _, _, err = call(train_rl, ['--group_size', '1000000'])
    assert '--group_size' in err


def test_a_trainer_says_how_much_memory_it_takes(tmp_path):
    _, out, _ = call(train_cot, [*SMALL.split(), '--out_dir', str(tmp_path)])
    assert f'files in {tmp_path}, about 0.1 GiB of memory' in out


@pytest.mark.parametrize('argv', [['--hops', '0'], ['--eval_only', '--ckpt', 'nowhere.pt']])
def test_from_python_a_mistake_is_a_value_error(argv):
    with pytest.raises(ValueError):
        train_cot.main(argv)


def test_a_mistake_as_a_process_sees_it(tmp_path):
    (tmp_path / 'ckpt.pt').write_bytes(b'not a checkpoint')
    done = subprocess.run(
        [sys.executable, ROOT / 'train_cot.py', '--eval_only', '--ckpt', 'ckpt.pt'],
        cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert done.stderr.startswith('train_cot.py: ckpt.pt is not a checkpoint')


SMALL = '--nodes 6 --hops 2 --n_embd 8 --batch_size 4 --steps 2 --n_test 5 --mode cot --device cpu'


def test_other_arguments_in_the_same_folder_are_refused(tmp_path):
    argv = [*SMALL.split(), '--out_dir', str(tmp_path)]
    assert call(train_cot, argv)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for extra in (['--hops', '3'], ['--steps', '3'], ['--resume', '--seed', '7']):
        code, _, err = call(train_cot, [*argv, *extra])
        assert code == 2 and err.count('\n') == 1 and 'holds a run with' in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_evaluation_under_other_arguments_is_refused(tmp_path):
    assert call(train_cot, [*SMALL.split(), '--out_dir', str(tmp_path)])[0] == 0
    checkpoint = ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt')]
    code, _, err = call(train_cot, [*checkpoint, '--task', 'star'])
    assert code == 2 and 'task=cycle' in err and err.count('\n') == 1


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    one_layer = [*SMALL.split(), '--out_dir', str(tmp_path / 'a')]
    two_layers = [*SMALL.split(), '--n_layer', '2', '--out_dir', str(tmp_path / 'b')]
    assert call(train_cot, one_layer)[0] == call(train_cot, two_layers)[0] == 0
    (tmp_path / 'b' / 'ckpt.pt').write_bytes((tmp_path / 'a' / 'ckpt.pt').read_bytes())
    code, _, err = call(train_cot, [*two_layers, '--resume'])
    assert code == 2 and 'another run' in err and err.count('\n') == 1


def test_the_same_arguments_start_over(tmp_path):
    argv = [*SMALL.split(), '--out_dir', str(tmp_path)]
    logs = []
    for _ in range(2):
        assert call(train_cot, argv)[0] == 0
        lines = (tmp_path / 'log.jsonl').read_text().splitlines()
        logs.append([line for line in lines if '"final"' not in line])
    assert logs[0] == logs[1]


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, monkeypatch):
    """With both runs under the same rate at every step, the weights are those of one long run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_cot, 'get_lr', lambda step, args: 1e-3)
    argv = SMALL.replace('--steps 2', '').split()
    assert call(train_cot, [*argv, '--steps', '3'])[0] == 0
    code, out, err = call(train_cot, [*argv, '--steps', '5', '--resume'])
    assert code == 0 and 'extended from 3 to 5 steps' in out, err
    assert call(train_cot, [*argv, '--steps', '5', '--out_dir', 'whole'])[0] == 0
    folder, = (tmp_path / 'out').iterdir()
    extended = torch.load(folder / 'ckpt.pt', weights_only=True)
    whole = torch.load('whole/ckpt.pt', weights_only=True)
    assert extended['step'] == whole['step'] == 5
    for name, weight in whole['model'].items():
        assert torch.equal(weight, extended['model'][name])


def test_main_works_in_a_thread_and_twice_and_leaves_no_handler_behind(tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    finals = []

    def run(folder):
        finals.append(train_cot.main([*SMALL.split(), '--out_dir', str(tmp_path / folder)]))

    thread = threading.Thread(target=run, args=('thread',))
    thread.start()
    thread.join()
    run('main')
    for final in finals:
        del final['seconds']
    assert finals[0] == finals[1] and len(finals) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.raises(ValueError, match='argument --hops'):
        train_cot.main(['--hops', '0'])


def test_a_bug_in_a_task_of_your_own_says_where_it_is(monkeypatch):
    def write(task, rng, source, hops):
        return source, source, hops
    monkeypatch.setattr(data.Cycle, 'write', write)
    code, _, err = call(data, ['--n', '1'])
    assert code == 2 and '(in write_batch, data.py, line' in err and err.count('\n') == 1


def test_a_mistake_does_not_say_where_it_was_noticed():
    code, _, err = call(data, ['--nodes', '1'])
    assert code == 2 and 'line' not in err


def test_ctrl_c_outside_of_training_ends_without_a_traceback(monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt
    monkeypatch.setattr(train_cot, 'main', interrupt)
    code, out, err = call(train_cot, [])
    assert (code, out) == (130, '') and 'stopped by Ctrl-C' in err and 'Traceback' not in err


def test_evaluation_on_other_hop_counts(tmp_path):
    assert call(train_cot, [*SMALL.split(), '--out_dir', str(tmp_path)])[0] == 0
    checkpoint = ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'), '--device', 'cpu']
    code, out, err = call(train_cot, [*checkpoint, '--hops', '1'])
    assert code == 0 and final_values(out)['hops'] == '1', err
    code, out, _ = call(train_cot, [*checkpoint, '--hops', '1-2', '--n_test', '7'])
    assert code == 0 and {'acc_h1', 'acc_h2'} < final_values(out).keys()
    code, _, err = call(train_cot, [*checkpoint, '--hops', '3'])
    assert code == 2 and 'trained on hops 2' in err and err.count('\n') == 1


@pytest.mark.parametrize('task', ['multiply --digits 2', 'star', 'countdown --numbers 3'])
def test_evaluation_of_tasks_without_hops(task, tmp_path):
    argv = f'--task {task} --n_embd 8 --n_head 1 --batch_size 4 --steps 2 --n_test 5 --device cpu'
    assert call(train_cot, [*argv.split(), '--out_dir', str(tmp_path)])[0] == 0
    checkpoint = ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'), '--device', 'cpu']
    code, out, err = call(train_cot, checkpoint)
    assert code == 0 and 'final task=' in out, err
    code, _, err = call(train_cot, [*checkpoint, '--hops', '2'])
    assert code == 2 and '--hops means nothing to' in err and err.count('\n') == 1


@pytest.mark.parametrize('name, argv, legend, sentence', [
    ('train_cot.py', SMALL.replace('--mode cot', ''),
     '  valid    share', 'Right answers at 2 hops: with the chain'),
    ('train_rl.py', '--nodes 6 --n_embd 8 --batch_size 4 --steps 2 --n_test 5 --device cpu',
     '  zero_variance  share', 'Right answers at 4 hops, learned from the reward'),
    ('train_maze.py', '--grid 3 --n_embd 8 --batch_size 4 --steps 2 --n_test 5 --device cpu',
     '  fork      share', 'Right paths on 3x3: the model'),
    ('train_latent.py', '--nodes 6 --n_embd 8 --batch_size 4 --steps 2 --n_test 20 --device cpu',
     '  flip       thought t', 'Right answers at 4 hops: token'),
])
def test_a_run_explains_its_measures_once_and_ends_with_a_sentence(name, argv, legend, sentence,
                                                                   tmp_path):
    code, out, err = call(SCRIPTS[name], [*argv.split(), '--out_dir', str(tmp_path)])
    lines = out.strip().split('\n')
    assert code == 0, err
    assert out.count(legend) == 1
    assert lines[-2].startswith(sentence) and lines[-2].endswith('.')


# -----------------------------------------------------------------------------
# help

def flags_of(name):
    """The flags that a script's help lists."""
    code, out, _ = call(SCRIPTS[name], ['--help'])
    assert code == 0
    return out, set(re.findall(r'^  (--\w+)', out, re.MULTILINE))


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_names_the_question_and_the_commands(name):
    out, _ = flags_of(name)
    question = SCRIPTS[name].__doc__.split('\n')[0]
    assert question in out and f'python {name}' in out
    assert 'None' not in out  # no default that says nothing
    assert out.count('\n') <= 60 and max(map(len, out.split('\n'))) <= 100  # fits on a screen


@pytest.mark.parametrize('name', TRAINERS)
def test_trainers_list_the_flags_that_people_know(name):
    out, flags = flags_of(name)
    assert 'torchrun' in out and '--device cuda' in out
    assert {'--n_layer', '--n_loop', '--batch_size', '--learning_rate', '--max_iters',
            '--resume'} <= flags


def test_a_script_lists_only_the_flags_of_its_own_tasks():
    assert {'--people', '--grid', '--numbers'}.isdisjoint(flags_of('train_rl.py')[1])
    assert {'--task', '--hops', '--nodes', '--people'}.isdisjoint(flags_of('train_maze.py')[1])
    assert '--grid' not in flags_of('train_cot.py')[1]


# -----------------------------------------------------------------------------
# bench.py

def test_bench_compares_like_with_like(monkeypatch):
    task, size, _ = bench.CONFIGS['cycle-20']
    monkeypatch.setitem(bench.CONFIGS, 'cycle-20', (task, size, 64))  # a batch of 64, not of 512
    monkeypatch.setattr(bench, 'N_PROMPTS', 4)
    code, out, _ = call(bench, ['--repeats', '1', '--device', 'cpu'])
    final = final_values(out)
    assert code == 0 and float(final['gradient_gap']) < 1e-5
    assert {'tokens_per_s', 'peak_share', 'skip_1', 'keys_1', 'skip_2', 'cache_1', 'cache_2',
            'sampling_1', 'shared_1', 'data_share'} < final.keys()
    assert 0 < float(final['peak_share']) < 1.2


@pytest.mark.slow
def test_bench_reaches_its_bars():
    final = final_values(run_script('bench.py', '--device', 'cpu').stdout)
    assert float(final['skip_1']) >= 2.5 and float(final['skip_2']) >= 1.3, final
    # without a cache one layer makes no keys and values at all, so it is a strong rival
    assert float(final['cache_1']) >= 1.2 and float(final['cache_2']) >= 3, final
    # sampling costs at most as much as the gradient step
    assert max(float(final['sampling_1']), float(final['sampling_2'])) <= 1, final


# -----------------------------------------------------------------------------
# README and docs/

def code_lines(text):
    """The lines of code blocks, continued ones joined, and what stands in backticks."""
    return text.replace('\\\n', ' ').replace('`', '\n').split('\n')


def documented_commands(text):
    """(script, arguments) of each command in a code block or in backticks, and of each row of a
    result table: its head names the script, its rows the arguments."""
    pattern = r'(?:.*&& |torchrun .*nproc_per_node=\w+ )?(?:python )?(\w+\.py)((?: --[^#&]*)?)'
    commands = []
    for line in code_lines(text):
        match = re.fullmatch(pattern, line.split(' #')[0].strip())
        if match and (match[2] or 'python ' in line):  # else the name of a file
            commands.append((match[1], match[2]))

    name = None
    for line in text.split('\n'):
        head = re.search(r'command: `python (\w+\.py)', line)
        if head:
            name = head[1]
        for arguments in re.findall(r'^\|[^|]*\| `(--[^`]*)` \|', line):
            commands.append((name, arguments))
    return commands


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_are_ones_that_the_scripts_take(path):
    for name, arguments in documented_commands(path.read_text(encoding='utf-8')):
        argv = shlex.split(arguments)
        assert name in SCRIPTS, name
        if '--help' in argv or not argv or not hasattr(SCRIPTS[name], 'parse_args'):
            continue
        if '--eval_only' in argv or '--init_from' in argv:
            continue  # reads the checkpoint
        args = SCRIPTS[name].parse_args(argv)
        if name in TRAINERS:
            SCRIPTS[name].fill_in(args)


def test_the_documents_hold_many_commands():
    """So that the test above cannot pass by finding none."""
    counts = {}
    for path in DOCUMENTS:
        name = path.relative_to(ROOT).as_posix().removeprefix('docs/')
        counts[name] = len(documented_commands(path.read_text(encoding='utf-8')))
    for name in ('train_cot.md', 'train_rl.md', 'train_maze.md', 'train_latent.md', 'capacity.md',
                 'probe.md'):
        assert counts[name] >= 7, counts
    assert counts['search.md'] >= 5 and counts['README.md'] >= 2, counts


def run_folders(text):
    """{folder that a command of this text writes to: the command}"""
    folders = {}
    for name, arguments in documented_commands(text):
        argv = shlex.split(arguments)
        if name not in RUNS or '--eval_only' in argv or '--help' in argv:
            continue
        folder = default_folder(name.removesuffix('.py'), argv)
        if '--out_dir' in argv:
            folder = argv[argv.index('--out_dir') + 1]
        previous = folders.setdefault(folder, (name, argv))
        assert previous == (name, argv), f'two commands write to {folder}'
    return folders


def test_the_documented_commands_have_folders_of_their_own():
    """So all of them can be pasted one after the other, in one folder."""
    everything = '\n'.join(path.read_text(encoding='utf-8') for path in DOCUMENTS)
    assert len(run_folders(everything)) > 40


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_documented_checkpoints_are_made_by_documented_commands(path):
    """On the same page, or by the command at the top of README."""
    text = path.read_text(encoding='utf-8')
    made = {*run_folders(text), *run_folders(README)}
    for line in code_lines(text):
        for folder in re.findall(r'--(?:ckpt|init_from) (out/[^ ]+)/ckpt\w*\.pt', line):
            assert folder in made, folder


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_links_point_at_files_that_are_there(path):
    text = path.read_text(encoding='utf-8')
    links = re.findall(r'\]\((?!http|#)([^)\s#]+)', text)
    links += re.findall(r'src="(?!http)([^"]+)"', text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_script_has_its_page():
    for name, module in SCRIPTS.items():
        for page in re.findall(r'docs/\w+\.md', module.__doc__):
            assert (ROOT / page).exists(), (name, page)
    for name in (*RUNS, 'bench.py'):
        assert 'Results: docs/' in SCRIPTS[name].__doc__, name


HEADINGS = ['The question', 'Run it', 'What you see', 'Results', 'What we learned',
            'How far to trust it']


def prose(text):
    """The paragraphs and list items of a document, without code, tables, headings and figures."""
    text = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    lines = []
    for line in text.split('\n'):
        is_prose = not re.match(r' {4}|\||#|!\[', line)
        lines.append(line if is_prose else '')
    paragraphs = re.split(r'\n\s*\n|\n(?=\s*(?:- |\d+\. ))', '\n'.join(lines))
    return [' '.join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()]


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_no_sentence_is_longer_than_40_words(path):
    for paragraph in prose(path.read_text(encoding='utf-8')):
        for sentence in re.split(r'(?<=[.!?])\s+', paragraph):
            assert len(sentence.split()) <= 40, sentence


def test_readme_is_short():
    assert len(README.split()) <= 1500


@pytest.mark.parametrize('page', ['train_cot', 'train_rl', 'train_puzzles', 'train_maze',
                                  'train_latent', 'search', 'jacobi', 'capacity', 'scaling',
                                  'probe', 'speed', 'discovery'])
def test_a_page_answers_the_same_six_questions_and_is_short(page):
    text = (ROOT / 'docs' / f'{page}.md').read_text(encoding='utf-8')
    assert re.findall(r'^## (.*)', text, re.MULTILINE) == HEADINGS
    assert sum(len(paragraph.split()) for paragraph in prose(text)) <= 1300


def python_blocks():
    return re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def test_the_task_of_the_readme_is_a_task():
    """Its code runs as it stands there, and its chains agree with its oracle."""
    names = {}
    exec(python_blocks()[0], names)
    task = names['Sum']()
    batch = data.sample_batch(task, 50, 0, 0)
    for tokens in batch.tokens.tolist():
        assert task.oracle(tokens[:batch.prompt_len]) == tokens[batch.prompt_len:]
    assert task.valid(batch, batch.tokens[:, batch.prompt_len:]).all()


def test_the_python_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(train_cot.RECIPES['cycle'], 'max_iters', 2)
    names = {}
    exec(python_blocks()[1], names)
    assert names['final']['steps'] == 2 and names['final']['n_test'] == 2000


# -----------------------------------------------------------------------------
# results

def without_number(name):
    """'pass_4' -> 'pass_', 'pass_4_before' -> 'pass__before'"""
    return re.sub(r'[0-9]+(?=(_before)?$)', '', name)


def names_in_log(path):
    """The names of all measures of a log, without the number at their end."""
    names = set()
    for line in path.read_text().splitlines():
        record = json.loads(line)
        names |= set(record)
        for measures in record.get('eval', {}).values():
            names |= set(measures)
    kinds = {'scaling': scaling.ARMS, 'train_latent': train_latent.FEEDS}
    for kind in kinds.get(path.parts[-4], ()):  # acc_hidden is explained as acc_soft
        names = {name.replace(f'_{kind}', '_soft') for name in names}
    return {without_number(name) for name in names}


@pytest.mark.parametrize('script', ['train_cot', 'train_rl', 'train_puzzles', 'train_maze',
                                    'train_latent', 'search', 'jacobi', 'capacity', 'scaling',
                                    'probe'])
def test_every_measure_of_the_logs_is_explained(script):
    """In docs/runs.md. What a log repeats of its flags is explained by --help."""
    text = (ROOT / 'docs' / 'runs.md').read_text(encoding='utf-8')
    explained = {without_number(name) for name in re.findall(r'`([a-z0-9_]+)`', text)}
    for log in (ROOT / 'results' / 'logs' / script).glob('*/seed1337/log.jsonl'):
        config = json.loads((log.parent / 'config.json').read_text())
        flags = {*config['args'], 'name', 'n_embd', 'n_layer', 'n_loop', 'method', 'b', 'hop'}
        unknown = names_in_log(log) - explained - flags
        unknown = {name for name in unknown if not name.startswith(('greedy_', 'random_'))}
        unknown -= {'exact_', 'origin_', 'adjacency_', 'adjacency_first_'}  # at other sizes
        assert not unknown, log


def read_logs(link):
    """The logs of a row, one list of records for each seed."""
    logs = []
    for path in sorted((ROOT / link).glob('seed*/log.jsonl')):
        with open(path) as f:
            logs.append([json.loads(line) for line in f])
    return logs


def read_finals(link):
    """The last record of each seed of a row. (--smallest has none if no size learned.)"""
    finals = []
    for log in read_logs(link):
        finals += [record for record in log if record['arm'] == 'final'][-1:]
    return finals


def is_mean_and_sd(values, mean, sd, n):
    """Are these values n, with this mean and sample standard deviation, as printed?"""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return (len(values) == int(n) and abs(statistics.mean(values) - float(mean)) < 6e-4
            and abs(spread - float(sd)) < 6e-4)


def table_rows():
    """(link, line) of each row of a result table in docs/ that links to its logs."""
    for path in DOCUMENTS:
        for line in path.read_text(encoding='utf-8').split('\n'):
            link = re.search(r'\[log\]\(\.\./(results/logs/[\w/-]+)\)', line)
            if link and line.startswith('|'):
                yield link[1], line


def test_every_mean_of_a_table_is_that_of_its_logs():
    rows = list(table_rows())
    assert len(rows) >= 10
    n_means = 0
    for link, line in rows:
        finals = read_finals(link)
        for name, mean, sd, n in re.findall(r'`(\w+)` (-?\d\.\d+) ± (\d\.\d+) \((\d+)\)', line):
            values = [final[name] for final in finals]
            assert is_mean_and_sd(values, mean, sd, n), (link, name, values)
            n_means += 1
    assert n_means > 20


def test_the_chains_that_discovery_took_are_those_of_the_logs():
    n_checked = 0
    for link, line in table_rows():
        for least, most in re.findall(r'95% after ([\d,]+) to ([\d,]+) chains', line):
            reached = [final['samples_95'] for final in read_finals(link)]
            assert (f'{min(reached):,}', f'{max(reached):,}') == (least, most), link
            n_checked += 1
        if 'never 95%' in line:
            assert not any(final['samples_95'] for final in read_finals(link)), link
            n_checked += 1
    assert n_checked > 5


def pools_in_short(models, hops):
    """How docs/scaling.md writes the smallest pools of all seeds: '128 to 256', 'none', ''."""
    by_seed = plots.smallest_sizes(models, models[0]['arm_of'], 'pool').get(hops, {})
    known = sorted(size for size in by_seed.values() if size)
    if not known:
        return 'none' if by_seed else ''
    text = f'{known[0]:,}' if known[0] == known[-1] else f'{known[0]:,} to {known[-1]:,}'
    return text if len(known) == len(by_seed) else f'{text}, none'


def test_the_pools_of_the_scaling_page_are_those_of_the_logs():
    page = (ROOT / 'docs' / 'scaling.md').read_text(encoding='utf-8')
    arm_of = {label: arm for arm, (label, *_) in plots.SCALING_ARMS.items()}
    n_rows = 0
    hops = []
    for line in page.split('\n'):
        name, *cells = [cell.strip() for cell in line.strip('|').split('|')]
        label = name.removesuffix(' (n=1)').removeprefix('parity: ')
        if name in ('arm', 'parity'):
            hops = [int(cell.split()[0]) for cell in cells[:-2]]
        elif label in arm_of:
            link = re.search(r'results/logs/[\w/-]+', cells[-1])[0]
            models = [record for log in read_logs(link) for record in log
                      if record.get('arm_of') == arm_of[label]]
            assert cells[:-2] == [pools_in_short(models, k) for k in hops], (name, link)
            n_rows += 1
    assert n_rows >= 8


def search_table(head):
    """The table of docs/search.md that begins with `head`: a (name, cells) for each row with a
    mean, and the logs that its head links to."""
    page = (ROOT / 'docs' / 'search.md').read_text(encoding='utf-8')
    first, *lines = page[page.index(head):].split('\n\n')[0].split('\n')
    logs = read_logs(re.search(r'\(\.\./(results/[\w/-]+)\)', first)[1])

    rows = []
    for line in lines:
        if '±' in line:
            name, *cells = [cell.strip() for cell in line.strip('|').split('|')]
            rows.append((name, cells))
    assert len(rows) >= 12
    return rows, logs


def records_of_row(logs, name):
    """The records of this row of a table, one of each seed. name: its series and setting."""
    series, setting = name.rsplit(', ', 1)
    records = []
    for log in logs:
        for record in log:
            if (record.get('series'), record.get('setting')) == (series, setting):
                records.append(record)
    return records


@pytest.mark.parametrize('head, keys', [
    ('| 100 puzzles of ToT', ('arithmetic', 'solved', 'top1', 'expansions', 'states', 'flops')),
    ('| all 1,362 puzzles', ('solved', 'solved_hard')),
])
def test_the_search_tables_are_what_the_logs_say(head, keys):
    rows, logs = search_table(head)
    for name, cells in rows:
        records = records_of_row(logs, name)
        for cell, key in zip(cells, keys, strict=True):
            if not cell:
                continue
            values = [record[key] for record in records]
            printed = re.fullmatch(r'(\d\.\d{3}) ± (\d\.\d{3}) \((\d)\)', cell)
            if key == 'arithmetic':
                assert set(values) == {cell}, name
            elif printed:
                assert is_mean_and_sd(values, *printed.groups()), (name, key)
            else:
                unit = 10**6 if key == 'flops' else 1
                number = float(cell.replace(',', ''))
                assert abs(statistics.mean(values) / unit - number) < 0.51, (name, key)


# -----------------------------------------------------------------------------
# the house

TASK_FILES = {'data', 'countdown', 'profiles', 'maze'}
# what experiments may import
GROUND = TASK_FILES | {'errors', 'model', 'memory', 'common', 'plots', 'linear_probe', 'tree',
                       'calibration', 'budgets', 'growth', 'anytime'}
ALLOWED = {
    'errors': set(),
    'model': set(),
    'linear_probe': set(),
    'data': {'errors'},
    'files': {'data'},
    'memory': {'data'},
    'checkpoint': {'data', 'model'},
    'countdown': {'errors', 'data'},
    'tree': {'countdown'},
    'calibration': {'countdown'},
    'budgets': {'calibration'},
    'growth': set(),
    'anytime': {'data', 'model'},
    'profiles': {'errors', 'data', 'memory'},
    'maze': {'errors', 'data'},
    'common': TASK_FILES | {'errors', 'model', 'files', 'checkpoint'},
    'plots': TASK_FILES | {'errors', 'model', 'files', 'common', 'tree',
                           'budgets', 'growth'},
}


def imported_names(path):
    """The modules that a file imports, without submodules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split('.')[0])
    return names


def test_imports_run_one_way():
    """Experiments -> plots, common -> tasks -> data, model. No experiment imports another."""
    own = {path.stem for path in ROOT.glob('*.py')}
    for path in ROOT.glob('*.py'):
        allowed = ALLOWED.get(path.stem, GROUND)
        assert imported_names(path) & own <= allowed, path.name
