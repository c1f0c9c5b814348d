"""What a user meets: every mistake is one line and exit code 2, the README's commands exist, the house keeps its rules."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import call

import bench
import capacity
import data
import probe
import search
import train_cot
import train_maze
import train_rl

ROOT = Path(__file__).parent.parent
SCRIPTS = {'train_cot.py': train_cot, 'train_rl.py': train_rl, 'train_maze.py': train_maze, 'search.py': search, 'capacity.py': capacity, 'probe.py': probe,
           'data.py': data, 'bench.py': bench}
README = (ROOT / 'README.md').read_text(encoding='utf-8')

BAD = [
    '--hops 0', '--hops -1', '--hops 20', '--hops 5-2', '--hops four', '--hops 1.5', '--hops 0-3', '--nodes 1', '--nodes 2 --hops 1', '--nodes x',
    '--task mazes', '--task maze', '--grid 4',
    '--task star --hops 2', '--task star --star 2', '--task star --star 1,3', '--task star --star 5,5 --nodes 20', '--task star --mode both',
    '--task multiply --nodes 10', '--task multiply --digits 0', '--task multiply --digits 10', '--task cycle --digits 3', '--reverse',
    '--format list', '--n_head 5', '--n_head 0', '--n_layer 0', '--n_embd -64', '--n_loop 0', '--batch_size 0', '--batch_size 10 --grad_accum 4',
    '--steps 0', '--steps many', '--lr 0', '--lr -1', '--lr nan', '--lr inf', '--grad_clip 0', '--weight_decay -1', '--warmup_iters -5', '--eval_interval 0',
    '--log_interval 0', '--n_test 0', '--seed -1', '--device tpu', '--device cuda:99', '--dtype float8', '--mode chain', '--n_lay 2', '--unknown 3', 'hops',
    '--hops 1-10000000000', '--seed 18446744073709551616', '--nodes 100000000', '--device hpu', '--device privateuseone', '--lr 1e400',
    '--task star --nodes 100000000', '--hops 4-', '--eval_only', '--ckpt nowhere.pt', '--eval_only --ckpt nowhere.pt', '--eval_only --ckpt .', '--compile yes',
    '--task countdown --numbers 1', '--task countdown --numbers 7', '--task countdown --hops 2', '--task countdown --holdout_targets 7', '--numbers 4',
    '--task countdown --holdout_targets 24,x', '--task countdown --holdout_targets', '--task profiles --hops 3', '--task profiles --people 1',
    '--task profiles --relations 18', '--task profiles --relations 0', '--task profiles --nodes 10', '--task profiles --bipartite --people 7', '--people 10',
]

BAD_RL = [
    '--hops 0', '--hops 10', '--nodes 0', '--nodes 2', '--task maze', '--task star', '--task multiply', '--task countdown', '--task profiles', '--star 2,3',
    '--baseline critic',
    '--objective max', '--k 4', '--objective passk --k 9', '--objective passk --k 0', '--objective passk --baseline ema',
    '--objective passk --baseline prefix', '--group_size 0', '--group_size 1', '--group_size 1 --baseline prefix', '--rollouts 0', '--temperature 0',
    '--temperature -1', '--entropy -1', '--entropy nan', '--pos sine', '--pos rope --n_embd 4 --n_head 4', '--n_head 5', '--curriculum yes', '--batch_size 0',
    '--steps 0', '--lr 0', '--log_interval 0', '--test_hops 10', '--test_hops 0', '--init_from nowhere.pt', '--init_from .', '--eval_only', '--ckpt x.pt',
    '--eval_only --ckpt nowhere.pt', '--device tpu', '--grad_accum 2', '--hop 3',
]

BAD_SEARCH = [
    '', '--ckpt nowhere.pt', '--ckpt .', '--method astar', '--b 0', '--k 0', '--samples 0', '--prune -1', '--prune nan', '--budget 0', '--temperature 0',
    '--n_test 0', '--target -1', '--target x', '--propose some', '--resume', '--jacobi yes', '--device tpu --ckpt x.pt', 'puzzles.txt',
]

BAD_PROBE = [
    '', '--ckpt nowhere.pt', '--ckpt .', '--layers x', '--layers 1,,2', '--layers 0.5', '--layers 1-2', '--positions x', '--positions 3,', '--n_train 0',
    '--n_train x', '--n_train 1e3', '--n_test 1', '--n_patch 1', '--seed -1', '--seed 18446744073709551616', '--dtype float8', '--device tpu --ckpt x.pt',
    '--resume', '--hops 2', '--task cycle', '--layer 1', 'ckpt.pt',
]

BAD_MAZE = [
    '--grid 2', '--grid 2-4', '--test_grid 2', '--grid 2 --gen percolation --percolation 0.99',
    '--loss mlmu --pos none', '--grid 1', '--grid 31', '--grid 0', '--grid 5-3', '--grid 4,5', '--grid x', '--gen prim', '--percolation 0.2',
    '--gen percolation --percolation 0',
    '--gen percolation --percolation 1.5', '--format text', '--no_separators', '--test_grid 0', '--test_grid 40', '--loss half', '--beta 1',
    '--loss graded --beta -1',
    '--loss graded --beta nan', '--n_layer 0', '--n_head 5', '--pos sine', '--pos rope --n_embd 4 --n_head 4', '--n_loop 0', '--batch_size 0', '--steps 0',
    '--lr 0', '--lr nan', '--warmup_iters -1', '--weight_decay -1', '--eval_interval 0', '--log_interval 0', '--n_test 0', '--seed -1', '--device tpu',
    '--device cuda:99', '--dtype float8', '--eval_only', '--ckpt x.pt', '--eval_only --ckpt nowhere.pt', '--eval_only --ckpt .', '--task maze', '--hops 4',
    '--gri 4', 'grid', '--compile',
]

@pytest.mark.parametrize('script, argv', [
    (script, argv) for script, bad in ((train_cot, BAD), (train_rl, BAD_RL), (train_maze, BAD_MAZE), (search, BAD_SEARCH), (probe, BAD_PROBE))
    for argv in bad])
def test_bad_command_line(script, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(script, argv.split())
    assert code == 2 and err.count('\n') == 1 and len(err) > 20 and out == '' and 'Traceback' not in err
    assert list(tmp_path.iterdir()) == []  # nothing was written

def test_bad_input_as_a_process_sees_it(tmp_path):
    (tmp_path / 'ckpt.pt').write_bytes(b'not a checkpoint')
    done = subprocess.run([sys.executable, ROOT / 'train_cot.py', '--eval_only', '--ckpt', 'ckpt.pt'], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1) and done.stderr.startswith('train_cot.py: ckpt.pt is not a checkpoint')

def test_other_arguments_and_foreign_checkpoints_are_refused(tmp_path):
    tiny = '--nodes 6 --hops 2 --n_embd 8 --batch_size 4 --steps 2 --n_test 5 --mode cot --device cpu --out_dir'.split() + [str(tmp_path / 'a')]
    assert call(train_cot, tiny)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / 'a').iterdir()}
    for extra in (['--hops', '3'], ['--steps', '3'], ['--resume', '--seed', '7']):
        code, _, err = call(train_cot, [*tiny, *extra])
        assert code == 2 and err.count('\n') == 1 and 'holds a run with' in err
    code, _, err = call(train_cot, ['--eval_only', '--ckpt', str(tmp_path / 'a' / 'ckpt.pt'), '--task', 'star'])
    assert code == 2 and 'task=cycle' in err and err.count('\n') == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / 'a').iterdir()} == before
    other = [*tiny[:-1], str(tmp_path / 'b'), '--n_layer', '2']
    assert call(train_cot, other)[0] == 0
    (tmp_path / 'b' / 'ckpt.pt').write_bytes(before['ckpt.pt'])  # a checkpoint of the run with one layer
    code, _, err = call(train_cot, [*other, '--resume'])
    assert code == 2 and 'another run' in err and err.count('\n') == 1

def test_the_same_arguments_start_over(tmp_path):
    argv = '--nodes 6 --hops 2 --n_embd 8 --batch_size 4 --steps 2 --n_test 5 --mode cot --device cpu --out_dir'.split() + [str(tmp_path)]
    logs = []
    for _ in range(2):
        assert call(train_cot, argv)[0] == 0
        logs.append([r for r in (tmp_path / 'log.jsonl').read_text().split('\n') if 'final' not in r])
    assert logs[0] == logs[1]

@pytest.mark.parametrize('name', SCRIPTS)
def test_help_names_every_default_and_the_commands(name):
    code, out, _ = call(SCRIPTS[name], ['--help'])
    assert code == 0
    if name.startswith('train'):
        assert 'torchrun' in out and '--device cuda' in out
        flags = re.findall(r'^  (--\w+)', out, re.M)
        assert {'--n_layer', '--n_loop', '--batch_size', '--learning_rate', '--max_iters', '--resume'} <= set(flags)
        assert ({'--grid', '--gen', '--loss'} if 'maze' in name else {'--task', '--hops'}) <= set(flags)

def test_bench_compares_like_with_like():
    code, out, _ = call(bench, ['--repeats', '1', '--device', 'cpu'])
    final = dict(re.findall(r'(\S+)=(\S+)', out.strip().split('\n')[-1]))
    assert code == 0 and float(final['gradient_gap']) < 1e-5
    assert {'tokens_per_s', 'peak_share', 'skip_1', 'skip_2', 'cache_1', 'cache_2', 'sampling_1', 'shared_1', 'data_share'} < final.keys()
    assert 0 < float(final['peak_share']) < 1.2

@pytest.mark.slow
def test_bench_reaches_its_bars():
    out = subprocess.run([sys.executable, 'bench.py', '--device', 'cpu'], cwd=ROOT, text=True, capture_output=True).stdout
    final = {k: v for k, v in re.findall(r'(\S+)=(\S+)', out.strip().split('\n')[-1])}
    assert float(final['skip_1']) >= 2.5 and float(final['skip_2']) >= 1.3 and float(final['cache_1']) >= 3 and float(final['cache_2']) >= 3, final
    assert max(float(final['sampling_1']), float(final['sampling_2'])) <= 1, final  # sampling costs at most as much as the gradient step

# ----------------------------------------------------------------------------- README and house

def test_readme_commands_parse():
    """Every command in a code block or in backticks, and the arguments in the results tables, are ones the scripts take."""
    text = README.replace('`', '\n')
    commands = re.findall(r'(?:^|&& |nproc_per_node=\d )(?:python )?(\w+\.py)((?: [^\n#&]*)?)$', text, re.M)
    name = None
    for line in README.split('\n'):  # a table's head names the script, its rows the arguments
        name = found[1] if (found := re.search(r'command: `python (\w+\.py)', line)) else name
        commands += [(name, argv) for argv in re.findall(r'^\|[^|]*\| `(--[^`]*)` \|', line)]
    assert len(commands) > 20
    for name, argv in commands:
        argv = argv.split()
        if name in ('search.py', 'capacity.py', 'probe.py'):
            SCRIPTS[name].parse_args(argv)
        if not name.startswith('train') or '--help' in argv or not argv:
            assert name in SCRIPTS or (ROOT / name).exists(), name
            continue
        args, _ = SCRIPTS[name].parse_args(argv)
        if not args.eval_only and not getattr(args, 'init_from', None):
            SCRIPTS[name].fill_in(args)

def test_readme_points_at_files_that_are_there():
    links = re.findall(r'\]\((?!http|#)([^)\s#]+)', README) + re.findall(r'src="(?!http)([^"]+)"', README)
    assert len(links) > 5 and not [link for link in links if not (ROOT / link).exists()]

def test_every_row_of_the_table_has_the_logs_behind_its_mean():
    """Recompute each `mean +- sd (n)` of the results table from the committed logs of its row."""
    rows = re.findall(r'^\|.*\[log\]\((results/[\w-]+)\).*$', README, re.M)
    assert len(rows) >= 10
    for line in README.split('\n'):
        if not (link := re.search(r'\[log\]\((results/[\w-]+)\)', line)) or not line.startswith('|'):
            continue
        finals = [[r for r in map(json.loads, open(path)) if r['arm'] == 'final'][-1] for path in sorted((ROOT / link[1]).glob('seed*/log.jsonl'))]
        for name, mean, sd, n in re.findall(r'`(\w+)` (\d\.\d+) ± (\d\.\d+) \((\d+)\)', line):
            values = [f[name] for f in finals]
            m = sum(values) / len(values)
            s = (sum((v - m) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5
            assert len(values) == int(n) and abs(m - float(mean)) < 6e-4 and abs(s - float(sd)) < 6e-4, (link[1], name, m, s)
        for least, most in re.findall(r'95% after ([\d,]+) to ([\d,]+) chains', line):
            reached = [f['samples_95'] for f in finals]
            assert (f'{min(reached):,}', f'{max(reached):,}') == (least, most), link[1]
        if 'never 95%' in line:
            assert not any(f['samples_95'] for f in finals), link[1]

def test_the_search_table_is_what_the_logs_say():
    """Recompute each `mean +- sd (n)` of the table of search.py from the rows of the logs that its head links to."""
    head, *lines = README[README.index('| method ([log]'):].split('\n\n')[0].split('\n')
    links = re.findall(r'\((results/[\w-]+)\)', head)
    runs = [[[json.loads(line) for line in open(path)] for path in sorted((ROOT / link).glob('seed*/log.jsonl'))] for link in links]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if '±' in line]
    assert len(lines) >= 12 and len(runs) == 2
    for name, arithmetic, *cells in lines:
        series, setting = name.rsplit(', ', 1)
        rows = [[next(r for r in run if (r.get('series'), r.get('setting')) == (series, setting)) for run in log] for log in runs]
        assert {r['arithmetic'] for r in rows[0]} == {arithmetic}
        for cell, log, key in zip(cells, (0, 0, 0, 0, 0, 1, 1), ('solved', 'top1', 'expansions', 'states', 'flops', 'solved', 'solved_hard'), strict=True):
            values = [r[key] for r in rows[log]] if cell else []
            mean = sum(values) / max(1, len(values))
            if found := re.fullmatch(r'(\d\.\d{3}) ± (\d\.\d{3}) \((\d)\)', cell):
                sd = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
                assert len(values) == int(found[3]) and abs(mean - float(found[1])) < 6e-4 and abs(sd - float(found[2])) < 6e-4, (name, key)
            elif cell:
                assert abs(mean / (10**6 if key == 'flops' else 1) - float(cell.replace(',', ''))) < 0.51, (name, key)

LIMITS = {'model.py': 330, 'data.py': 700, 'common.py': 160, 'train_cot.py': 350, 'train_rl.py': 350, 'search.py': 400, 'capacity.py': 400, 'probe.py': 400,
          'train_maze.py': 350, 'README.md': 350}
PACKAGES = {'numpy', 'torch', 'tqdm', 'matplotlib', 'pytest'}

def test_house_rules():
    """Imports run one way and stay within five packages; files stay short enough to be read in one sitting."""
    for name, limit in LIMITS.items():
        assert len((ROOT / name).read_text(encoding='utf-8').splitlines()) <= limit, name
    own = {path.stem for path in (*ROOT.glob('*.py'), ROOT / 'tests' / 'conftest.py')}
    allowed = {'model': set(), 'data': set(), 'common': {'model'}}
    for path in [*ROOT.glob('*.py'), *ROOT.glob('tests/*.py'), *ROOT.glob('results/*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in (n.split('.')[0] for n in names):
                assert name in sys.stdlib_module_names | PACKAGES | own, (path.name, name)
                if name in own and path.parent.name != 'tests':
                    assert name in allowed.get(path.stem, {'model', 'data', 'common'}), (path.name, name)
