"""scaling.py: the pools and chains of each arm, and the search for the smallest pool or width."""

import json

import numpy as np
import pytest
import torch
from conftest import call as call_script
from conftest import final_values

import plots
import scaling
from data import Cycle, Parity, sample_batch
from model import GPT, GPTConfig
from train_latent import Thinker


TASK = Cycle(7, [1, 2, 3, 4])
TINY = ('--measure pools --arms written,soft,useless --hops 1,2 --nodes 5 --n_embd 16 '
        '--smallest_pool 16 --largest_pool 64 --n_seeds 1 --rates 2e-2 --steps 60 --batch_size 32 '
        '--n_test 200 --device cpu').split()


def call(*argv):
    return call_script(scaling, [str(word) for word in argv])


def run(*argv):
    """scaling.py in this process; returns the words of its last line."""
    code, out, err = call(*argv)
    assert code == 0, err
    return final_values(out)


def records(folder):
    """The records of a finished sweep, without its seconds."""
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    timed = ('seconds', 'minutes')
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def links_of(batch, row):
    """The links before the answer, and the answer."""
    P = batch.prompt_len
    k = int(batch.hops[row])
    chain = batch.tokens[row, P:P + k].tolist()
    return chain[:-1], chain[-1]


# -----------------------------------------------------------------------------
# what each arm learns from

@pytest.mark.parametrize('arm', scaling.ARMS)
def test_all_arms_get_the_same_questions_and_the_same_answers(arm):
    plain = sample_batch(TASK, 60, 5, 0, 'fit')
    batch = scaling.draw_questions(arm, TASK, 60, 5, 0, 'fit')
    P = plain.prompt_len
    assert torch.equal(batch.tokens[:, :P], plain.tokens[:, :P])
    assert torch.equal(batch.tokens.gather(1, batch.answer), plain.tokens.gather(1, plain.answer))
    is_direct = arm in ('loop', 'direct', 'narrow')
    expected = torch.ones_like(batch.hops) if is_direct else batch.hops
    assert torch.equal(batch.loss_mask.sum(dim=1), expected)


def test_a_useless_chain_is_a_walk_that_tells_nothing_about_the_answer():
    batch = scaling.draw_questions('useless', TASK, 4000, 5, 0, 'fit')
    first_links = []
    n_right = n_links = 0
    for row in range(len(batch)):
        links, _ = links_of(batch, row)
        table = batch.instance[row].tolist()
        for before, after in zip(links[:-1], links[1:], strict=True):
            assert table[before] == after  # it follows the table
        if links:
            start = int(batch.tokens[row, batch.prompt_len - 1])
            n_right += links[0] == table[start]
            n_links += 1
            first_links.append(links[0])
    assert abs(n_right / n_links - 1 / 7) < 0.03  # the true first link by chance alone
    assert np.bincount(first_links).min() > 0.8 * n_links / 7


def test_a_useless_chain_of_parity_is_random_bits():
    task = Parity(8, [1, 2, 3, 4])
    plain = sample_batch(task, 4000, 5, 0, 'fit')
    batch = scaling.draw_questions('useless', task, 4000, 5, 0, 'fit')
    P = batch.prompt_len
    assert torch.equal(batch.tokens.gather(1, batch.answer), plain.tokens.gather(1, plain.answer))
    is_link = torch.arange(4) < batch.hops[:, None] - 1                   # (B, 4)
    same = batch.tokens[:, P:] == plain.tokens[:, P:]
    for t in range(3):
        assert abs(same[:, t][is_link[:, t]].float().mean() - 0.5) < 0.06
    first, second = batch.tokens[batch.hops == 4][:, P:P + 2].T
    assert abs((first == second).float().mean() - 0.5) < 0.06


def test_reversed_links_are_those_of_the_true_chain_turned_around():
    plain = sample_batch(TASK, 200, 5, 0, 'fit')
    batch = scaling.draw_questions('backwards', TASK, 200, 5, 0, 'fit')
    for row in range(200):
        links, answer = links_of(plain, row)
        assert links_of(batch, row) == (links[::-1], answer)
    assert torch.equal(batch.loss_mask, plain.loss_mask)


@pytest.mark.parametrize('arm, n_layer, n_loop', [
    ('written', 1, 1), ('soft', 1, 1), ('useless', 1, 1), ('backwards', 1, 1), ('loop', 1, 4),
    ('direct', 4, 1), ('narrow', 4, 1)])
def test_the_model_of_an_arm(arm, n_layer, n_loop):
    args = scaling.parse_args(['--n_embd', '64', '--hops', '4'])
    scaling.fill_in(args)
    config = scaling.make_config(arm, 4, args)
    assert (config.n_layer, config.n_loop) == (n_layer, n_loop)
    one = 12 * 64**2
    blocks = n_layer * 12 * config.n_embd**2
    assert blocks == (4 * one if arm == 'direct' else one)
    thin = scaling.make_config(arm, 4, args, 16)
    assert thin.n_embd == config.n_embd / 4 and thin.n_layer == n_layer


def test_smaller_pools_are_the_beginning_of_larger_ones(monkeypatch):
    argv = '--hops 2 --largest_pool 64 --smallest_pool 8 --nodes 7 --steps 1'
    args = scaling.parse_args(argv.split())
    scaling.fill_in(args)
    seen = {}

    def remember(arm, task, pool, step, seed, batch_size):
        seen[len(pool)] = pool.tokens
        return pool[:2]

    monkeypatch.setattr(scaling, 'batch_of_step', remember)
    run = FakeRun()
    for size in (8, 64):
        scaling.train('written', 2, size, 1e-3, 5, args, run)
    assert torch.equal(seen[64][:8], seen[8])


def test_the_questions_of_a_pool_differ_from_one_another():
    task = Cycle(5, [1, 2])
    pool = scaling.draw_pool('soft', task, 150, 5)
    P = pool.prompt_len
    assert len(pool) == 150
    assert len({tuple(prompt) for prompt in pool.tokens[:, :P].tolist()}) == 150
    smaller = scaling.draw_pool('useless', task, 100, 5)
    assert torch.equal(smaller.tokens[:, :P], pool.tokens[:100, :P])
    assert len(scaling.draw_pool('soft', task, 1024, 5)) < 240  # of 24 cycles, 5 starts, 2 hops


def test_every_question_of_a_pool_comes_once_in_an_epoch():
    pool = scaling.draw_pool('written', TASK, 12, 5)
    numbered = {tuple(row): i for i, row in enumerate(pool.tokens.tolist())}
    assert len(numbered) == 12
    epochs = []
    for step in range(6):
        batch = scaling.batch_of_step('written', TASK, pool, step, 5, 4)
        epochs += [numbered[tuple(row)] for row in batch.tokens.tolist()]
    assert sorted(epochs[:12]) == sorted(epochs[12:]) == list(range(12))
    assert epochs[:12] != epochs[12:]


def test_fresh_questions_are_new_in_every_step_and_never_those_of_the_test():
    first = scaling.batch_of_step('written', TASK, None, 0, 5, 50)
    second = scaling.batch_of_step('written', TASK, None, 1, 5, 50)
    assert not torch.equal(first.tokens, second.tokens)
    pool = scaling.draw_questions('written', TASK, 50, 5, 0, 'fit')
    assert not torch.equal(first.tokens, pool.tokens)
    held_out = {tuple(table) for split in ('validation', 'test')
                for table in sample_batch(TASK, 300, 5, 9, split).instance.tolist()}
    large_pool = scaling.draw_pool('written', TASK, 1000, 5)
    instances = torch.cat((first.instance, second.instance, large_pool.instance))
    trained = {tuple(table) for table in instances.tolist()}
    assert not held_out & trained


# -----------------------------------------------------------------------------
# loss and accuracy

def small_model(task=TASK, n_head=1):
    torch.manual_seed(3)
    return GPT(GPTConfig(len(task.vocab), task.block_size, 1, n_head, 16)).eval()


def test_soft_thoughts_are_those_of_train_latent():
    model = small_model()
    prompt = sample_batch(TASK, 9, 5, 0, hops=4).tokens[:, :9]
    ours = scaling.think_softly(model, prompt, 4)
    theirs, _ = Thinker(model, 'soft', TASK.pad)(prompt, 4)
    assert torch.equal(ours, theirs)


def test_the_loss_of_soft_thoughts_is_on_the_answer_alone():
    model = small_model()
    batch = sample_batch(TASK, 9, 5, 0)
    logits = scaling.think_softly(model, batch.tokens[:, :batch.prompt_len], 4)
    by_hand = 0.0
    for row in range(9):
        k = int(batch.hops[row])
        answer = batch.tokens[row, batch.answer[row, 0]]
        by_hand -= logits[row, k - 1].log_softmax(dim=-1)[answer] / 9
    torch.testing.assert_close(scaling.loss_of('soft', model, batch), by_hand)


class FakeRun:
    """A run that only computes."""
    device = torch.device('cpu')
    signal = 0
    trains = False
    rank = 0
    world = 1
    resumes = False

    def __init__(self):
        self.autocast = torch.enable_grad()

    def begin_training(self):
        pass

    def check_signal_in_a_sweep(self):
        pass

    def progress_bar(self, *args):
        class Bar:
            def update(self):
                pass

            def close(self):
                pass
        return Bar()


def test_a_useless_chain_is_given_in_the_test(monkeypatch):
    """A model that would write the true chain, and read the answer from it, is right by chance."""
    def knows_the_lookup(idx, mask):
        table = idx[:, :7]
        answer = table.gather(1, idx[:, -1:].clamp(max=6))                  # (B, 1)
        return torch.zeros(len(idx), len(TASK.vocab)).scatter(1, answer, 9.0)

    model = small_model()
    monkeypatch.setattr(model, 'forward', knows_the_lookup)
    right, _ = scaling.evaluate('useless', model, TASK, 5, 1000, 'validation', FakeRun())
    assert abs(right - 1 / 7) < 0.04


@pytest.mark.parametrize('arm', ['written', 'direct', 'soft'])
def test_accuracy_and_loss_are_those_of_the_answer(arm):
    model = small_model()
    right, loss = scaling.evaluate(arm, model, TASK, 5, 40, 'validation', FakeRun())
    batch = sample_batch(TASK, 40, 5, 4 * 10**6, 'validation', hops=4)
    P = batch.prompt_len
    answer = batch.tokens[:, -1]
    prompt = batch.tokens[:, :P]
    if arm == 'soft':
        logits = scaling.think_softly(model, prompt, 4)[:, -1]
    elif arm == 'direct':
        logits = model(prompt)[:, -1]
    else:
        logits = model(model.generate(prompt, 3))[:, -1]
    assert right == (logits.argmax(dim=-1) == answer).sum().item() / 40
    p = logits.softmax(dim=-1)[torch.arange(40), answer]
    assert abs(loss + p.log().mean().item()) < 1e-5


def test_a_model_stops_when_it_has_learned():
    """One hop over five nodes, from enough questions."""
    argv = '--hops 1 --nodes 6 --n_embd 32 --steps 400 --largest_pool 512 --batch_size 64'
    args = scaling.parse_args(argv.split())
    scaling.fill_in(args)
    record = scaling.train('written', 1, 512, 1e-2, 5, args, FakeRun())
    assert record['ended'] == 'learned' and record['right'] >= 0.95 and record['test'] > 0.9
    assert record['step'] < 400 and record['curve'][-1][0] == record['step']
    assert record['loss'] < 0.5


def test_learned_by_loss_waits_for_a_small_loss(monkeypatch):
    argv = '--hops 1 --nodes 6 --n_embd 32 --steps 400 --largest_pool 512 --batch_size 64'
    monkeypatch.setattr(scaling, 'LEARNED', 0.5)
    records = {}
    for criterion in ('accuracy', 'loss'):
        args = scaling.parse_args([*argv.split(), '--learned_by', criterion])
        scaling.fill_in(args)
        records[criterion] = scaling.train('written', 1, 512, 1e-2, 5, args, FakeRun())
    by_loss = records['loss']
    assert by_loss['ended'] == 'learned' and by_loss['loss'] <= scaling.LOW_LOSS
    losses = [loss for _, _, loss, _ in by_loss['curve']]
    assert by_loss['loss'] == min(losses) == losses[-1]
    shorter = len(records['accuracy']['curve'])
    assert shorter < len(losses)  # half were right earlier, and up to there all is the same
    assert by_loss['curve'][:shorter] == records['accuracy']['curve']


@pytest.mark.parametrize('patience', [100, 300])
def test_a_model_that_knows_its_pool_by_heart_gives_up(patience, monkeypatch):
    """`patience` steps after the first small training loss, or after the best evaluation if that
    comes later."""
    monkeypatch.setattr(scaling, 'PATIENCE', patience)
    argv = '--hops 2 --nodes 9 --n_embd 32 --steps 2000 --largest_pool 8 --smallest_pool 8'
    args = scaling.parse_args(argv.split())
    scaling.fill_in(args)
    record = scaling.train('direct', 2, 8, 1e-2, 5, args, FakeRun())
    assert record['ended'] == 'by heart'
    by_heart = [step for step, _, _, loss in record['curve'] if loss and loss < scaling.BY_HEART][0]
    best = max(record['curve'], key=lambda point: (point[1], -point[0]))  # the first of the best
    assert record['step'] == max(by_heart, best[0]) + patience
    assert (record['right'], record['loss']) == (best[1], best[2])


def test_a_model_that_neither_learns_nor_knows_its_pool_ends_with_its_steps():
    argv = '--hops 2 --nodes 9 --n_embd 32 --steps 70 --largest_pool 512'
    args = scaling.parse_args(argv.split())
    scaling.fill_in(args)
    record = scaling.train('direct', 2, 512, 1e-3, 5, args, FakeRun())
    assert (record['ended'], record['step']) == ('steps', 70)


def test_a_model_that_diverges_is_noted_and_the_sweep_goes_on(tmp_path, monkeypatch):
    loss_of = scaling.loss_of

    def diverge(arm, model, batch):
        return loss_of(arm, model, batch) * (torch.inf if arm == 'soft' else 1)

    monkeypatch.setattr(scaling, 'loss_of', diverge)
    run(*TINY, '--hops', 1, '--n_seeds', 1, '--out_dir', tmp_path)
    ended = {(model['arm_of'], model['ended']) for model in records(tmp_path)[:-1]}
    assert ('soft', 'diverged') in ended and ('written', 'steps') in ended


# -----------------------------------------------------------------------------
# the search

class Counting(scaling.Sweep):
    """A sweep whose models learn if their pool has `enough` questions. It counts trainings."""

    def __init__(self, enough, rates=(1e-2,), good_rate=1e-2):
        self.args = scaling.parse_args(['--smallest_pool', '8', '--largest_pool', '1024'])
        self.args.rates = list(rates)
        self.run = None
        self.enough = enough
        self.good_rate = good_rate
        self.trained = []

    def record_of(self, arm, hops, size, rate, seed, width=None):
        if size is None:  # fresh questions: it is the width that counts
            size = width or self.args.n_embd
        self.trained.append((size, rate))
        learned = size >= self.enough and rate == self.good_rate
        return dict(ended='learned' if learned else 'steps', right=float(learned), rate=rate,
                    loss=0.0)


@pytest.mark.parametrize('enough', [8, 9, 16, 100, 512, 513, 1024])
def test_the_smallest_pool_is_found_by_bisection(enough):
    sweep = Counting(enough)
    found = sweep.smallest_pool('written', 2, 5)
    assert found == 2 ** int(np.ceil(np.log2(enough)))
    assert len(sweep.trained) <= 5  # of eight sizes
    assert sweep.trained[0][0] == 1024  # the largest one first


@pytest.mark.parametrize('enough, width', [(1, 4), (5, 8), (8, 8), (33, 64), (64, 64), (65, None)])
def test_the_smallest_width_is_found_by_bisection(enough, width):
    sweep = Counting(enough)
    assert scaling.widths(sweep.args) == [4, 8, 16, 32, 64]
    assert sweep.smallest_width('written', 2, 5) == width
    assert sweep.trained[0][0] == 64 and len(sweep.trained) <= 4


@pytest.mark.parametrize('n_embd, n_head, expected', [
    (64, 8, [8, 16, 32, 64]), (48, 2, [6, 12, 24, 48]), (20, 4, [20]), (2, 1, [2])])
def test_widths_are_halves_that_the_heads_divide(n_embd, n_head, expected):
    args = scaling.parse_args(['--n_embd', str(n_embd), '--n_head', str(n_head)])
    assert scaling.widths(args) == expected


def test_a_pool_that_does_not_suffice_costs_one_training_for_each_rate():
    sweep = Counting(2000, rates=(1e-2, 1e-3))
    assert sweep.smallest_pool('written', 2, 5) is None
    assert sweep.trained == [(1024, 1e-2), (1024, 1e-3)]


def test_one_learning_rate_that_learns_suffices():
    sweep = Counting(100, rates=(1e-2, 1e-3), good_rate=1e-3)
    assert sweep.smallest_pool('written', 2, 5) == 128
    assert sweep.best('written', 2, 128, 5)['rate'] == 1e-3


def test_the_best_rate_at_any_budget_is_that_of_the_validation(monkeypatch):
    rights = {1e-2: 0.5, 1e-3: 0.9, 1e-4: 0.7}

    def fake(kind, task, rate, seed, args, run):
        return dict(name=scaling.anytime.name_of(kind, rate, seed), rate=rate, right=rights[rate])

    sweep = Counting(8, rates=list(rights))
    sweep.args.hops = [2]
    sweep.args.nodes = 7
    sweep.records = {}
    monkeypatch.setattr(scaling.anytime, 'train', fake)
    monkeypatch.setattr(sweep, 'keep', lambda record: sweep.records.update(
        {record['name']: record}))
    assert sweep.at_any_budget('state', 5)['rate'] == 1e-3 and len(sweep.records) == 3
    monkeypatch.setattr(scaling.anytime, 'train', None)  # nothing is trained twice
    assert sweep.at_any_budget('state', 5)['rate'] == 1e-3


def test_budgets_of_one_hop(tmp_path):
    final = run('--measure', 'budgets', '--hops', 1, '--nodes', 5, '--n_embd', 8, '--n_seeds', 1,
                '--steps', 2, '--n_test', 8, '--out_dir', tmp_path, '--device', 'cpu')
    assert {'inside_state', 'beyond_whole', 'inside_chain'} <= set(final)


def test_at_one_hop_all_arms_are_the_same_model(tmp_path):
    arms = ','.join(scaling.ARMS)
    run(*TINY, '--arms', arms, '--hops', 1, '--n_seeds', 1, '--out_dir', tmp_path)
    models = [record for record in records(tmp_path) if record['arm'] == 'model']
    by_pool = {}
    for model in models:
        rest = {key: model[key] for key in ('right', 'test', 'loss', 'step', 'params')}
        by_pool.setdefault(model['pool'], []).append(rest)
    for same in by_pool.values():
        assert len(same) == len(scaling.ARMS)
        for rest in same:
            # soft thoughts need all keys and values, which the other arms do without
            assert rest == same[0] | {'loss': pytest.approx(same[0]['loss'], rel=1e-4)}


# -----------------------------------------------------------------------------
# a whole sweep

def test_the_typical_pool_is_the_geometric_mean():
    assert scaling.typical({1: 64, 2: 4096}) == 512
    assert scaling.typical({1: 64, 2: None}) is None


@pytest.fixture
def learns_easily(monkeypatch):
    """So that tiny models learn, and the sweep goes through all its parts."""
    monkeypatch.setattr(scaling, 'LEARNED', 0.3)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, 'LEARNED', 0.3)
        return run(*TINY, '--out_dir', folder), folder


def test_the_last_line_and_the_files(whole):
    final, folder = whole
    assert final['task'] == 'cycle' and final['quick'] == '0' and final['seeds'] == '1'
    for arm in ('written', 'soft', 'useless'):
        assert {f'slope_{arm}', f'n_{arm}_1', f'n_{arm}_2'} <= set(final)
    log = records(folder)
    assert log[-1]['arm'] == 'final' and int(final['runs']) == len(log) - 1
    last_line = json.loads((folder / 'log.jsonl').read_text().splitlines()[-1])
    assert set(last_line['minutes']) == {'written', 'soft', 'useless'}
    assert not {name for name in final if name.startswith(('width', 'inside'))}  # pools alone
    assert {record['ended'] for record in log[:-1]} >= {'learned', 'steps'}
    assert any(record['pool'] is None for record in log[:-1])
    assert final['n_useless_1'] == final['n_written_1'] != 'none'


def test_a_stopped_sweep_goes_on_where_it_was(whole, learns_easily, tmp_path, monkeypatch):
    _, folder = whole
    train = scaling.train
    n_trained = 0

    def stop_after_three(*args):
        nonlocal n_trained
        n_trained += 1
        if n_trained == 4:
            raise scaling.common.RunEnded('stopped', exit_code=130)
        return train(*args)

    monkeypatch.setattr(scaling, 'train', stop_after_three)
    code, _, err = call(*TINY, '--out_dir', tmp_path)
    assert code == 130 and err.count('\n') == 1
    code, _, err = call(*TINY, '--out_dir', tmp_path)
    assert code == 2 and '--resume goes on with it' in err  # nothing is lost by accident

    n_trained = 4
    run(*TINY, '--out_dir', tmp_path, '--resume')
    assert n_trained - 4 + 3 == len(records(folder)) - 1  # none is trained twice
    assert records(tmp_path) == records(folder)


def test_widths_and_budgets_and_parity(tmp_path, learns_easily):
    argv = ('--measure widths,budgets --task parity --bits 6 --arms written,soft,narrow --hops 1,2 '
            '--n_embd 16 --n_seeds 1 --rates 2e-2 --steps 30 --batch_size 32 --n_test 200 '
            '--device cpu')
    final = run(*argv.split(), '--out_dir', tmp_path)
    log = records(tmp_path)
    widths = {record['width'] for record in log[:-1] if 'arm_of' in record}
    assert widths <= {4, 8, 16} and len(widths) > 1
    assert all(record['pool'] is None for record in log[:-1] if 'arm_of' in record)
    task = Parity(6, [1, 2])
    for record in log[:-1]:
        if record.get('arm_of') in ('written', 'soft') and record['hops'] == 2:
            config = GPTConfig(len(task.vocab), task.block_size, 1, 2, record['width'])
            assert record['params'] == GPT(config).num_params()
    assert final['width_written_1'] in ('4', '8', '16') and 'n_written_1' not in final
    kinds = [record for record in log[:-1] if 'kind' in record]
    assert [record['kind'] for record in kinds] == ['chain', 'state', 'whole']
    for record in kinds:
        accuracy = np.array(record['accuracy'])
        assert accuracy.shape == (2, 4) and len(record['flops']) == 4
        lowest = min(accuracy[0, :2].min(), accuracy[1, 1])
        assert float(final[f'inside_{record["kind"]}']) == pytest.approx(lowest, abs=1e-3)
        lowest = accuracy[:, 2:].min()
        assert float(final[f'beyond_{record["kind"]}']) == pytest.approx(lowest, abs=1e-3)
    figure = plots.draw([plots.read_run(tmp_path)])
    assert [axis.get_title() for axis in figure.axes] == [
        'width that it takes', 'one model, 1 to 4 passes']
    assert not [name for name in final if name.startswith('width_narrow')]


def test_two_processes_find_what_one_finds(two_processes, tmp_path):
    tiny = [*TINY, '--measure', 'pools,budgets']
    run(*tiny, '--out_dir', tmp_path / 'one')
    done = two_processes('scaling.py', *tiny, '--out_dir', str(tmp_path / 'two'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1
    assert records(tmp_path / 'two') == records(tmp_path / 'one')


def test_a_line_that_a_kill_cut_short_costs_one_model(whole, learns_easily, tmp_path, monkeypatch):
    _, folder = whole
    run(*TINY, '--out_dir', tmp_path)
    path = tmp_path / 'models-0.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(''.join(lines[:3]) + '{}\n' + lines[3][:50])
    n_trained = 0
    train = scaling.train

    def count(*args):
        nonlocal n_trained
        n_trained += 1
        return train(*args)

    monkeypatch.setattr(scaling, 'train', count)
    run(*TINY, '--out_dir', tmp_path, '--resume')
    assert n_trained == len(lines) - 3 and records(tmp_path) == records(folder)
    run(*TINY, '--out_dir', tmp_path, '--resume')
    assert n_trained == len(lines) - 3  # the new lines are whole


@pytest.mark.parametrize('argv, message', [
    ('--arms spoken', 'expected one or several of written'),
    ('--arms written,written', 'expected one or several of written'),
    ('--hops 10', '--hops 10 needs more than --nodes 10'),
    ('--hops 1000000000', 'needs more than --nodes 10'),
    ('--hops 1 --nodes 5', 'there are only about'),
    ('--bits 9', '--bits means nothing to cycle'),
    ('--task parity --nodes 9', '--nodes means nothing to parity'),
    ('--task parity --hops 17', '--hops 17 needs as many --bits, not 16'),
    ('--task parity --bits 8 --hops 1', 'use a smaller pool or more --bits'),
    ('--measure widths --largest_pool 64', 'mean nothing to --measure widths'),
    ('--measure budgets --arms soft', '--arms and --learned_by mean nothing'),
    ('--measure budgets --learned_by loss', '--arms and --learned_by mean nothing'),
    ('--measure depth', 'expected one or several of pools, widths, budgets'),
    ('--largest_pool 1000', '--largest_pool 1000 is no power of 2'),
    ('--smallest_pool 64 --largest_pool 32', '--smallest_pool 64 is larger than'),
    ('--rates 0', 'expected a number above 0'),
    ('--n_head 5', 'n_head=5 does not divide n_embd=64'),
])
def test_bad_input(argv, message):
    code, out, err = call(*argv.split())
    assert (code, out) == (2, '') and message in err and err.count('\n') == 1
