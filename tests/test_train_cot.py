"""The experiment: its loss and gradients, its measures on models whose behaviour is known, resuming, and its headline."""

import contextlib
import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train_cot
from data import CVPR, Cycle, Star, sample_batch

ROOT = Path(__file__).parent.parent
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1, rank=0, master=True)
TINY = '--nodes 8 --hops 1-3 --n_embd 16 --batch_size 16 --n_test 40'.split()

def run(tmp_path, *argv):
    """train_cot in this process; returns the dict of its final line."""
    with contextlib.redirect_stdout(out := __import__('io').StringIO()):
        train_cot.main([*argv, '--device', 'cpu', *([] if '--eval_only' in argv else ['--out_dir', str(tmp_path)])])
    last = out.getvalue().strip().split('\n')[-1]
    assert last.startswith('final ')
    return dict(pair.split('=') for pair in last.split()[1:])

def weights(folder, name='ckpt.pt'):
    return torch.load(Path(folder) / name, weights_only=True)['model']

def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

class Scripted:
    """Stands in for a model on a Lookup task: `step(table, start, k, chain) -> next node` decides every token."""

    def __init__(self, task, step):
        self.task, self.step = task, step

    def eval(self):
        pass

    def generate(self, idx, n):
        nodes, rows = self.task.nodes, []
        for row in idx.tolist():
            for _ in range(n):
                table, k, start, chain = row[:nodes], row[nodes] - nodes + 1, row[nodes + 1], row[nodes + 2:]
                row = [*row, self.step(table, start, k, chain)]
            rows.append(row)
        return torch.tensor(rows)

def reader(table, start, k, chain):  # looks up the token before, whatever it is
    return table[chain[-1] if chain else start]

def ignorer(table, start, k, chain):  # works the answer out from the prompt, and writes the chain for show
    for _ in range(len(chain) + 1):
        start = table[start]
    return start

@pytest.mark.parametrize('task', [Cycle(nodes=12, hops=[4]), CVPR(nodes=12, hops=[5]), Cycle(nodes=12, hops=[1, 2, 3])])
def test_faithfulness_tells_a_reader_from_an_ignorer(task):
    read = train_cot.faithfulness(Scripted(task, reader), task, RUN, 0, 300)
    ignored = train_cot.faithfulness(Scripted(task, ignorer), task, RUN, 0, 300)
    assert read['follow']['value'] == 1 and ignored['follow']['value'] < 0.25  # cvpr: several cells may hold the same value
    assert ignored['swap']['value'] == 1 and read['swap']['value'] == read['swap']['read'] < 0.35
    assert ignored['early']['value'] == 0 and read['early']['value'] == pytest.approx(read['early']['read']) and read['early']['value'] > 0.7
    if task.name == 'cycle':
        assert ignored['follow']['value'] == 0 and read['swap']['value'] < 0.2
    assert ignored['follow']['value'] == ignored['follow']['ignored'] == read['follow']['ignored']  # the columns say what such models score
    assert read['follow']['chance'] < 0.2 and read['early']['chance'] == 1 - task.chance(max(task.hops))

def test_faithfulness_is_silent_where_nothing_is_written_before_the_answer():
    for task in (Cycle(hops=[1]), Star()):
        assert train_cot.faithfulness(None, task, RUN, 0, 10) == {}

def test_evaluate_counts_answers_chains_and_valid_steps():
    task = Cycle(nodes=10, hops=[1, 2, 3])

    def slips(table, start, k, chain):  # right, but for the second token of every chain: it skips one node
        return table[reader(table, start, k, chain)] if len(chain) == 1 else reader(table, start, k, chain)

    class WithLogits(Scripted):
        def __call__(self, idx, mask):
            return torch.zeros(int(mask.sum()), 4)  # uniform over four tokens: entropy ln 4
    results, examples = train_cot.evaluate(WithLogits(task, slips), task, 'cot', RUN, 0, 50)
    assert results[1] == pytest.approx(dict(acc=1, chain=1, valid=1, entropy=math.log(4)))
    assert results[2] == pytest.approx(dict(acc=0, chain=0, valid=1 / 2, entropy=math.log(4)))
    assert results[3] == pytest.approx(dict(acc=0, chain=0, valid=2 / 3, entropy=math.log(4)))
    assert 'wrong' not in examples[0] and 'wrong' in examples[1]

def test_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    args = SimpleNamespace(learning_rate=1.0, warmup_iters=9, max_iters=109)
    rates = [train_cot.get_lr(step, args) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[59] == pytest.approx(0.5) and rates[109] == pytest.approx(0)
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True)) and all(a > b for a, b in zip(rates[9:], rates[10:], strict=False))

def test_logged_loss_is_the_mean_over_loss_tokens(tmp_path):
    run(tmp_path, *TINY, '--steps', '1', '--log_interval', '1', '--mode', 'cot')
    record = next(r for r in map(json.loads, open(tmp_path / 'log.jsonl')) if 'loss' in r)
    task = Cycle(nodes=8, hops=[1, 2, 3])
    torch.manual_seed(1337)
    model = train_cot.GPT(train_cot.GPTConfig(len(task.vocab), task.block_size, n_embd=16))
    batch, total, count = sample_batch(task, 16, 1337, 0), 0.0, 0
    logits = model(batch.tokens[:, :-1])
    for b in range(16):
        for t in range(batch.prompt_len, batch.prompt_len + int(batch.hops[b])):
            total -= logits[b, t - 1].log_softmax(-1)[batch.tokens[b, t]].item()
            count += 1
    assert record['loss'] == pytest.approx(total / count, abs=1e-5)

def test_grad_accum_does_not_change_the_run(tmp_path):
    for n in (1, 4):
        run(tmp_path / str(n), *TINY, '--steps', '5', '--grad_accum', str(n), '--mode', 'cot')
    a, b = (weights(tmp_path / n) for n in '14')
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-5

def test_run_leaves_config_log_checkpoints_and_plot(tmp_path):
    final = run(tmp_path, *TINY, '--steps', '20')
    assert {p.name for p in tmp_path.iterdir()} == {'config.json', 'log.jsonl', 'ckpt.pt', 'ckpt_direct.pt', 'plot.png'}
    assert list(final)[:6] == ['task', 'hops', 'mode', 'acc', 'acc_min', 'acc_direct'] and final['hops'] == '1-3' and final['n_test'] == '40'
    keys = {'chance', 'chain', 'valid', 'entropy', 'follow', 'swap', 'early', 'params', 'steps', 'seed', 'seconds', 'acc_h1', 'acc_h2', 'acc_h3'}
    assert keys < final.keys() and final['acc'] == final['acc_h3']
    assert float(final['acc_min']) == min(float(final[f'acc_h{k}']) for k in (1, 2, 3))
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['args']['hops'] == [1, 2, 3] and config['args']['format'] == 'table' and config['params'] == int(final['params'])
    again = run(tmp_path, '--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'))
    assert {**again, 'seconds': 0} == {k: v for k, v in final.items() if k != 'acc_direct'} | {'mode': 'cot', 'seconds': 0}
    direct = run(tmp_path, '--eval_only', '--ckpt', str(tmp_path / 'ckpt_direct.pt'))
    assert direct['acc_direct'] == final['acc_direct'] == direct['acc'] and 'chain' not in direct

@pytest.mark.parametrize('argv', ['--task multiply --digits 2', '--task multiply --digits 2 --reverse', '--task star --reverse',
                                  '--task cvpr --hops 3', '--format pairs --nodes 6 --hops 2 --n_loop 2'])
def test_every_task_trains_for_a_few_steps(argv, tmp_path):
    final = run(tmp_path, *argv.split(), '--n_embd', '16', '--batch_size', '8', '--steps', '3', '--n_test', '20')
    assert ('acc_direct' in final) == ('star' not in argv) and ('follow' in final) == ('cvpr' in argv or 'pairs' in argv)

def test_resume_after_any_stop_is_the_uninterrupted_run(tmp_path, monkeypatch):
    """Cut off before, at and between checkpoints, in either arm; weights and log come out the same to the bit."""
    argv = [*TINY, '--steps', '12', '--eval_interval', '5', '--log_interval', '2']
    run(tmp_path / 'whole', *argv)

    class Cut(Exception):
        pass
    for stops in ([3], [5, 4], [9, 3, 8], [14, 3]):
        folder, real = tmp_path / '-'.join(map(str, stops)), train_cot.sample_batch
        for i, after in enumerate(stops):
            left = iter(range(after))

            def limited(task, size, seed, step, split='train', *rest, left=left, real=real, **kw):
                if split == 'train' and next(left, None) is None:
                    raise Cut
                return real(task, size, seed, step, split, *rest, **kw)
            monkeypatch.setattr(train_cot, 'sample_batch', limited)
            with pytest.raises(Cut):
                run(folder, *argv, *['--resume'] * (i > 0))
            monkeypatch.setattr(train_cot, 'sample_batch', real)
        run(folder, *argv, '--resume')
        for name in ('ckpt.pt', 'ckpt_direct.pt'):
            assert same(weights(tmp_path / 'whole', name), weights(folder, name))
        logs = [[r for r in map(json.loads, open(f / 'log.jsonl')) if r['arm'] != 'final'] for f in (tmp_path / 'whole', folder)]
        assert logs[0] == logs[1]

@pytest.mark.parametrize('extra', ['--lr 1e6 --warmup_iters 0 --steps 10', '--lr 1e15 --eval_interval 1 --steps 20', '--weight_decay 1e15 --steps 20'])
def test_divergence_ends_in_one_line_and_never_in_a_bad_checkpoint(extra, tmp_path, capsys):
    try:
        run(tmp_path, *TINY, *extra.split(), '--mode', 'cot')
    except SystemExit as end:
        assert end.code == 1
        err = capsys.readouterr().err
        assert 'diverged' in err and err.count('\n') == 1
    assert not (tmp_path / 'ckpt.pt').exists() or all(w.isfinite().all() for w in weights(tmp_path).values())

def test_resume_with_another_number_of_processes_is_refused(tmp_path, capsys, monkeypatch):
    run(tmp_path, *TINY, '--steps', '2', '--mode', 'cot')
    capsys.readouterr()
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *TINY, '--steps', '2', '--mode', 'cot', '--resume')
    assert end.value.code == 2 and 'processes=1, not 2' in capsys.readouterr().err

def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path, capsys, monkeypatch):
    real = train_cot.evaluate

    def interrupted(model, task, mode, *rest):
        if (log := tmp_path / 'log.jsonl').exists() and log.read_text().count('loss') == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(model, task, mode, *rest)
    monkeypatch.setattr(train_cot, 'evaluate', interrupted)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *TINY, '--steps', '20', '--eval_interval', '20', '--mode', 'cot')
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert end.value.code == 143 and '--resume' in capsys.readouterr().err
    assert torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step'] == 20

def test_non_finite_loss_stops_and_keeps_the_last_good_weights(tmp_path, capsys, monkeypatch):
    real, calls = train_cot.F.cross_entropy, []

    def poisoned(*args, **kw):
        calls.append(1)
        return real(*args, **kw) * (float('nan') if len(calls) > 7 else 1)
    monkeypatch.setattr(train_cot.F, 'cross_entropy', poisoned)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *TINY, '--steps', '20', '--eval_interval', '5', '--log_interval', '1', '--mode', 'cot')
    assert end.value.code == 1 and 'diverged' in capsys.readouterr().err
    assert torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step'] == 5 and all(w.isfinite().all() for w in weights(tmp_path).values())

# ----------------------------------------------------------------------------- whole processes

def script(*argv, **kw):
    return subprocess.Popen([sys.executable, 'train_cot.py', *map(str, argv)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_leaves_with_the_usual_code(number, tmp_path):
    argv = (*TINY, '--steps', 10**6, '--mode', 'cot', '--device', 'cpu', '--out_dir', tmp_path)
    process = script(*argv)
    while not (log := tmp_path / 'log.jsonl').exists() or log.read_text().count('loss') < 2:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and '--resume' in err and 'Traceback' not in err
    assert torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step'] >= 20

def losses(folder):
    return [r['loss'] for r in map(json.loads, open(folder / 'log.jsonl')) if 'loss' in r]

def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    argv = ('--hops', '1-4', '--steps', '50', '--log_interval', '1', '--n_test', '50', '--device', 'cpu', '--mode', 'cot')
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'train_cot.py', *argv,
                '--batch_size', '16', '--grad_accum', '2', '--out_dir', str(tmp_path / 'two')]
    done = subprocess.run(torchrun, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1 and 'global batch 16 x 2 = 32' in done.stdout  # rank 0 alone speaks
    run(tmp_path / 'one', *argv, '--batch_size', '32')
    two, one = losses(tmp_path / 'two'), losses(tmp_path / 'one')
    assert len(one) == len(two) == 50 and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    a, b = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-3

@pytest.mark.slow
def test_three_kills_and_resumes_are_the_uninterrupted_run(tmp_path):
    argv = ('--hops', 4, '--steps', 400, '--eval_interval', 20, '--device', 'cpu', '--out_dir')
    assert script(*argv, tmp_path / 'whole').wait() == 0
    rng = random.Random(0)
    for i in range(3):
        process = script(*argv, tmp_path / 'killed', *['--resume'] * (i > 0))
        time.sleep(rng.uniform(2.5, 6))
        process.kill()
        process.wait()
    out, _ = script(*argv, tmp_path / 'killed', '--resume').communicate()
    assert out.strip().split('\n')[-1].startswith('final ')
    for name in ('ckpt.pt', 'ckpt_direct.pt'):
        assert same(weights(tmp_path / 'whole', name), weights(tmp_path / 'killed', name))

HEADLINES = [  # README rows: command, what must hold
    ('--hops 4', dict(acc=(0.99, 1), acc_direct=(0, 0.153), valid=(0.99, 1), follow=(0.95, 1), swap=(0, 0.105), params=(0, 100_000), seconds=(0, 60))),
    ('--nodes 40 --hops 1-5 --mode cot', dict(acc_min=(0.995, 1), params=(0, 200_000), seconds=(0, 180))),
    ('--task cvpr --nodes 100 --hops 30 --mode cot', dict(acc=(0.99, 1), params=(0, 300_000), seconds=(0, 600))),
    ('--format pairs --nodes 16 --hops 4 --mode cot', dict(acc=(0.99, 1), seconds=(0, 600))),
    ('--task multiply --digits 3 --mode cot', dict(acc=(0.995, 1), seconds=(0, 300))),
    ('--task multiply --digits 4 --mode cot', dict(acc=(0.99, 1), seconds=(0, 600))),
    ('--task star', dict(acc=(0.45, 0.55), seconds=(0, 300))),
    ('--task star --reverse', dict(acc=(0.95, 1), seconds=(0, 300))),
]

@pytest.mark.slow
@pytest.mark.parametrize('argv, bars', HEADLINES)
def test_headline(argv, bars, tmp_path):
    out, err = script(*argv.split(), '--out_dir', tmp_path).communicate()
    final = dict(re.findall(r'(\S+)=(\S+)', out.strip().split('\n')[-1]))
    assert all(low <= float(final[name]) <= high for name, (low, high) in bars.items()), final

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('extra', [[], ['--compile']])
def test_default_run_on_a_gpu(extra, tmp_path):
    out, err = script('--hops', 4, '--device', 'cuda', '--out_dir', tmp_path, *extra).communicate()
    final = dict(re.findall(r'(\S+)=(\S+)', out.strip().split('\n')[-1]))
    assert float(final['acc']) > 0.99 and float(final['acc_direct']) < 0.16, err
