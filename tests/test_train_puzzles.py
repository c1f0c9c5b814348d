"""train_puzzles.py: what is held out, how a puzzle is played, and the gradient, by hand."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import call as call_script
from conftest import final_values

import common
import search
import train_cot
import train_puzzles
from countdown import Countdown, find_solution
from model import GPT
from train_puzzles import HeldOut, play


TASK = Countdown(3, (24, 36))
PUZZLES = torch.tensor([[2, 3, 4], [4, 4, 8], [1, 2, 12]])
FILE = '\n'.join(' '.join(map(str, puzzle)) for puzzle in PUZZLES.tolist())


def call(*argv):
    return call_script(train_puzzles, [str(word) for word in argv])


def run(*argv):
    """train_puzzles in this process; returns the words of its last line."""
    code, out, err = call(*argv)
    assert code == 0, err
    return final_values(out)


def records(folder):
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    for record in log:
        record.pop('seconds', None)
    return log


def weights(folder):
    return torch.load(folder / 'ckpt.pt', weights_only=True)['model']


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """Arguments of a tiny run: a checkpoint that has learned a little, and a file of puzzles."""
    folder = tmp_path_factory.mktemp('start')
    code, _, err = call_script(train_cot, (
        f'--task countdown --numbers 3 --holdout_targets 24,36 --n_layer 1 --n_head 2 --n_embd 32 '
        f'--batch_size 8 --steps 2 --n_test 10 --device cpu '
        f'--out_dir {folder}').split())
    assert code == 0, err
    (folder / 'puzzles.txt').write_text(FILE)
    return [*f'--init_from {folder}/ckpt.pt --puzzles {folder}/puzzles.txt --batch_size 4 '
            '--group_size 3 --pass_k 8 --device cpu --lr 1e-2 --warmup_iters 2'.split()]


def step_of(tokens):
    """The step of a solution after these tokens; of what cannot be solved, a sum."""
    numbers = [token for token in tokens[1:-1] if token < 200]
    steps = find_solution(numbers, tokens[0])
    steps = steps or [f'{numbers[-1]} + {numbers[0]} = {numbers[-1] + numbers[0]}']
    a, op, b, _, c = steps[0].split()
    return [int(a), TASK.plus + '+-*/'.index(op), int(b), TASK.equals, int(c)]


@pytest.fixture
def lucky(monkeypatch):
    """The steps of all models are good ones, but some that are sampled are repetitions of 7."""
    def generate(model, prompt, n, temperature=0.0, samples=1, uniform=None):
        rows = prompt.repeat_interleave(samples, dim=0).tolist()
        for i, tokens in enumerate(rows):
            is_bad = uniform is not None and uniform[i, 0] > 0.7
            tokens += [7] * 5 if is_bad else step_of(tokens)
        return torch.tensor(rows)
    monkeypatch.setattr(GPT, 'generate', generate)


# -----------------------------------------------------------------------------
# what is held out

def results_of(a, b):
    """All numbers that a legal move makes of two."""
    large = max(a, b)
    small = min(a, b)
    numbers = {large + small, large - small, large * small}
    if small > 0 and large % small == 0:
        numbers.add(large // small)
    return {number for number in numbers if number <= 199}


def states_below(state):
    """All states that moves can reach from a sorted tuple of numbers, itself included."""
    below = {state}
    for i, j in itertools.combinations(range(len(state)), 2):
        others = [state[k] for k in range(len(state)) if k not in (i, j)]
        for number in results_of(state[i], state[j]):
            child = tuple(sorted([*others, number]))
            if len(child) > 1:
                below |= states_below(child)
    return below


def makes(state, target):
    """Whether the target can be made, by trying everything."""
    if len(state) == 1:
        return state[0] == target
    for i, j in itertools.combinations(range(len(state)), 2):
        others = [state[k] for k in range(len(state)) if k not in (i, j)]
        if any(makes([*others, number], target) for number in results_of(state[i], state[j])):
            return True
    return False


def test_all_states_below_the_puzzles_are_held_out_and_no_others():
    held_out = HeldOut(24, PUZZLES, 'cpu')
    expected = set()
    for puzzle in PUZZLES.tolist():
        expected |= states_below(tuple(puzzle))
    for m in (2, 3):
        states = list(itertools.combinations_with_replacement(range(160), 2))
        if m == 3:
            states = list(itertools.combinations_with_replacement(range(14), 3))
        tensor = torch.tensor(states)
        target = torch.full((len(states),), 24)
        answers = held_out.holds(target, tensor).tolist()
        assert answers == [state in expected for state in states]
        assert sum(answers) > 0
        assert not held_out.holds(target + 1, tensor).any()


@pytest.mark.parametrize('text', ['24', '10-23,25-100', '36,48,60', '12-13'])
def test_targets_are_written_as_they_are_typed(text):
    assert train_puzzles.format_targets(train_puzzles.parse_targets(text)) == text


def test_training_puzzles_can_be_solved_and_are_not_held_out():
    held_out = HeldOut(24, PUZZLES, 'cpu')
    puzzles, targets = train_puzzles.training_puzzles([24, 36], held_out)
    expected = []
    for target in (24, 36):
        for puzzle in itertools.combinations_with_replacement(range(1, 14), 3):
            if makes(list(puzzle), target) and not (target == 24 and list(puzzle) in
                                                    PUZZLES.tolist()):
                expected.append((*puzzle, target))
    assert [(*p, t) for p, t in zip(puzzles.tolist(), targets.tolist(), strict=True)] == expected


def test_if_all_puzzles_are_held_out_none_is_left_to_train_on(start, tmp_path):
    puzzles = []
    for puzzle in itertools.combinations_with_replacement(range(1, 14), 3):
        if makes(list(puzzle), 24):
            puzzles.append(' '.join(map(str, puzzle)))
    (tmp_path / 'all.txt').write_text('\n'.join(puzzles))
    code, out, err = call(*start, '--puzzles', tmp_path / 'all.txt', '--out_dir', tmp_path / 'new')
    assert code == 2 and err.count('\n') == 1 and 'no puzzle is left' in err and not out
    assert not (tmp_path / 'new').exists()


def test_nothing_held_out_is_in_the_loss(start, lucky, tmp_path, monkeypatch):
    """Of all steps that are played, the loss has exactly those whose prompt is not held out."""
    below = set()
    for puzzle in PUZZLES.tolist():
        below |= states_below(tuple(puzzle))
    played = []
    starts_of_steps = []
    trained = []

    def spy_play(*args):
        solved, legal, turns = play(*args)
        if len(args) > 5 and args[4] == 3:  # a rollout of training
            starts_of_steps.append(len(played))
            played.extend(prompt for turn in turns for prompt in turn.tokens.tolist())
        return solved, legal, turns

    def spy_log_probs(model, tokens, temperature):
        trained.extend(tokens.tolist())
        return log_probs(model, tokens, temperature)
    log_probs = train_puzzles.log_probs
    monkeypatch.setattr(train_puzzles, 'play', spy_play)
    monkeypatch.setattr(train_puzzles, 'log_probs', spy_log_probs)
    run(*start, '--targets', '24,36', '--steps', 8, '--log_interval', 8, '--batch_size', 32,
        '--out_dir', tmp_path)

    def is_held_out(tokens):
        numbers = tuple(token for token in tokens[1:4] if token < 200)
        return tokens[0] == 24 and numbers in below
    assert sorted(trained) == sorted(tokens for tokens in played if not is_held_out(tokens))

    # the log has the share of the last step
    record = records(tmp_path)[1]
    last = played[starts_of_steps[-1]:]
    n_out = sum(map(is_held_out, last))
    assert 0 < n_out < len(last)
    assert record['left_out'] == pytest.approx(n_out / len(last))


# -----------------------------------------------------------------------------
# playing

class Player:
    """Stands in for a model: writes the steps of a solution, or a wrong one for some states."""

    def __init__(self, wrong=()):
        self.wrong = wrong

    def generate(self, prompt, n, temperature=0.0, samples=1, uniform=None):
        rows = []
        for tokens in prompt.repeat_interleave(samples, dim=0).tolist():
            assert tokens[-1] == TASK.yes and n == 5
            step = step_of(tokens)
            if tuple(token for token in tokens[1:-1] if token < 200) in self.wrong:
                step[-1] += 1
            rows.append(tokens + step)
        return torch.tensor(rows)


def test_right_steps_solve_a_puzzle_and_a_wrong_one_ends_the_chain():
    target = torch.full((3,), 24)
    solved, legal, turns = play(Player(), TASK, PUZZLES, target, 2, 1.0, torch.zeros(6, 10))
    assert solved.all() and legal.all() and solved.shape == (3, 2)
    assert [turn.chain.tolist() for turn in turns] == [list(range(6))] * 2
    assert turns[0].states.tolist() == PUZZLES.repeat_interleave(2, dim=0).tolist()

    solved, legal, turns = play(Player(wrong=[(4, 4, 8)]), TASK, PUZZLES, target)
    assert solved[:, 0].tolist() == legal[:, 0].tolist() == [True, False, True]
    assert turns[1].chain.tolist() == [0, 2]


def test_a_chain_without_a_wrong_step_need_not_make_the_target():
    """Steps for 24 from numbers whose target is another one."""
    class Other(Player):
        def generate(self, prompt, *args, **options):
            prompt = prompt.clone()
            prompt[:, 0] = 24
            return super().generate(prompt, *args, **options)
    solved, legal, _ = play(Other(), TASK, PUZZLES, torch.tensor([24, 25, 24]))
    assert legal.all() and solved[:, 0].tolist() == [True, False, True]


def test_random_play_chooses_among_the_states_that_moves_lead_to():
    """3 and 8: 11, 5, 24. 2 and 2: 4 (twice), 0, 1. Each state is equally likely."""
    share = train_puzzles.random_play(torch.tensor([[3, 8]]), 24, 30_000, 0)
    assert abs(share - 1 / 3) < 4 * (2 / 9 / 30_000) ** 0.5
    share = train_puzzles.random_play(torch.tensor([[2, 2]]), 4, 30_000, 0)
    assert abs(share - 1 / 3) < 4 * (2 / 9 / 30_000) ** 0.5


# -----------------------------------------------------------------------------
# training

@pytest.mark.parametrize('baseline', ['loo', 'none'])
def test_training_is_reinforce_written_out(baseline, start, lucky, tmp_path, monkeypatch):
    """The gradient of a step, against the sum over chains, steps and tokens."""
    played = []
    gradients = []

    def spy_play(*args):
        played.append((args, play(*args)))
        return played[-1][1]
    monkeypatch.setattr(train_puzzles, 'play', spy_play)
    clip = torch.nn.utils.clip_grad_norm_

    def spy_clip(parameters, most):
        parameters = list(parameters)
        gradients.extend(p.grad.clone() for p in parameters)
        return clip(parameters, most)
    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', spy_clip)
    run(*start, '--targets', '24,36', '--baseline', baseline, '--steps', 1, '--entropy', 0.1,
        '--temperature', 1.5, '--out_dir', tmp_path)
    rollouts = [(args, result) for args, result in played if len(args) > 5 and args[4] == 3]
    (args, (solved, _, turns)), = rollouts
    targets = args[3]
    assert 0 < solved.sum() < solved.numel()

    # the gradient, a token at a time
    model, _ = common.load_model(start[1])
    held_out = HeldOut(24, PUZZLES, 'cpu')
    loss = 0.0
    for turn in turns:
        rows = zip(turn.chain.tolist(), turn.states, turn.tokens, strict=True)
        for chain, state, tokens in rows:
            puzzle = chain // 3
            if held_out.holds(targets[puzzle][None], state[None]):
                continue
            group = solved[puzzle].float().tolist()
            advantage = group[chain % 3]
            if baseline == 'loo':
                advantage -= (sum(group) - advantage) / 2
            for place in range(len(tokens) - 5, len(tokens)):
                logits = model(tokens[None, :place])[0, -1]
                log_p = (logits / 1.5).log_softmax(dim=0)
                entropy = -(log_p.exp() * log_p).sum()
                loss = loss - advantage * log_p[tokens[place]] - 0.1 * entropy
    expected = torch.autograd.grad(loss / 12, list(model.parameters()))
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_advantage_is_the_lead_over_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 1, 1]])
    expected = [[1, -0.5, -0.5], [0, 0, 0], [-1, 0.5, 0.5]]
    assert train_puzzles.leave_one_out(rewards).tolist() == expected


def test_coins_reward_half_of_all_chains_whatever_they_make(start, tmp_path):
    argv = [*start, '--objective', 'coin', '--steps', 40, '--log_interval', 1]
    run(*argv, '--batch_size', 16, '--lr', 1e-9, '--out_dir', tmp_path)
    rewards = [record['reward'] for record in records(tmp_path)[1:-1]]
    assert abs(sum(rewards) / len(rewards) - 0.5) < 4 * (0.25 / (40 * 48)) ** 0.5


def test_the_last_line_has_what_was_before_and_what_is_after(start, lucky, tmp_path, figures):
    final = run(*start, '--steps', 1, '--log_interval', 1, '--lr', 1e-9, '--out_dir', tmp_path)
    for name in ('greedy', 'pass_1', 'pass_4', 'pass_8'):
        assert final[f'{name}_before'] == final[name]  # a step of nothing
    assert float(final['pass_1']) <= float(final['pass_4']) <= float(final['pass_8'])
    assert final['n_test'] == '3' and final['samples'] == '12' and final['targets'] == '24'
    assert (tmp_path / 'plot.png').exists()


def test_what_is_logged_is_what_was_played(start, lucky, tmp_path, monkeypatch):
    """The measures of one step, from its chains."""
    rollouts = []
    greedy = []

    def spy_play(*args):
        result = play(*args)
        if len(args) > 5 and args[4] == 3:  # a rollout of training
            rollouts.append(result)
        elif len(args) == 4:  # greedy
            greedy.append((args[2].tolist(), result[0].float().mean().item()))
        return result
    monkeypatch.setattr(train_puzzles, 'play', spy_play)
    run(*start, '--targets', '24,36', '--steps', 1, '--batch_size', 16, '--out_dir', tmp_path)
    record = records(tmp_path)[1]
    (solved, legal, turns), = rollouts
    assert 0 < solved.sum() < solved.numel()
    assert record['reward'] == pytest.approx(solved.float().mean().item())
    assert record['legal'] == pytest.approx(legal.float().mean().item())
    n_right = solved.sum(dim=1)
    assert record['pass_at_group'] == (n_right > 0).float().mean().item()
    assert record['zero_variance'] == ((n_right == 0) | (n_right == 3)).float().mean().item()
    assert record['pass_at_group'] > 0 and 0 < record['zero_variance'] < 1

    # the held-out puzzles and the training puzzles that are tested have nothing in common
    held_out = [share for puzzles, share in greedy if puzzles == PUZZLES.tolist()]
    seen = [share for puzzles, share in greedy if puzzles != PUZZLES.tolist()]
    assert record['greedy'] in held_out and record['greedy_seen'] == seen[-1]


def test_the_learning_rate_warms_up_and_stays():
    args = SimpleNamespace(learning_rate=0.1, warmup_iters=3)
    rates = [train_puzzles.get_lr(step, args) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_what_was_before_and_what_is_after_are_not_mixed_up(start, tmp_path, monkeypatch):
    """A model that solves everything, until it is trained."""
    is_trained = []

    def fake_play(model, task, puzzles, targets, n_chains=1, temperature=0.0, uniform=None):
        solved = torch.full((len(puzzles), n_chains), not is_trained)
        return solved, solved, []
    monkeypatch.setattr(train_puzzles, 'play', fake_play)
    monkeypatch.setattr(train_puzzles, 'train', lambda *args: is_trained.append(1) or 12)
    final = run(*start, '--steps', 1, '--out_dir', tmp_path)
    for name in ('greedy', 'pass_1', 'pass_8'):
        assert (float(final[f'{name}_before']), float(final[name])) == (1, 0)


def test_pass_at_1_is_the_share_of_solved_chains(start, lucky, monkeypatch, tmp_path):
    played = []

    def spy_play(*args):
        played.append((args, play(*args)))
        return played[-1][1]
    monkeypatch.setattr(train_puzzles, 'play', spy_play)
    final = run(*start, '--steps', 1, '--out_dir', tmp_path)
    shares = [result[0].float().mean().item() for args, result in played
              if len(args) > 5 and args[4] == 8]
    assert [f'{share:.3f}' for share in shares] == [final['pass_1_before'], final['pass_1']]


def test_search_takes_what_was_trained(start, tmp_path):
    run(*start, '--steps', 1, '--out_dir', tmp_path / 'rl')
    code, out, err = call_script(search, [
        '--ckpt', str(tmp_path / 'rl/ckpt.pt'), '--puzzles', start[3], '--k', '2', '--device',
        'cpu', '--out_dir', str(tmp_path / 'search')])
    assert code == 0, err
    assert final_values(out)['n_test'] == '3'


@pytest.mark.parametrize('argv, words', [
    ('--puzzles {other}', 'may have been trained on 2 2 6'),
    ('', 'may have been trained on'),
    ('--method calibration', 'may have been trained on'),
    ('--show 2 2 6', 'may have been trained on 2 2 6'),
    ('--puzzles {own} --target 36', 'trained on all puzzles of target 36'),
])
def test_search_refuses_puzzles_that_the_model_was_trained_on(argv, words, start, tmp_path):
    run(*start, '--steps', 1, '--targets', '24,36', '--out_dir', tmp_path / 'rl')
    (tmp_path / 'other.txt').write_text('2 2 6')
    argv = argv.format(other=tmp_path / 'other.txt', own=start[3]).split()
    code, out, err = call_script(search, [
        '--ckpt', str(tmp_path / 'rl/ckpt.pt'), '--k', '2', '--device', 'cpu', '--out_dir',
        str(tmp_path / 'search'), *argv])
    assert code == 2 and err.count('\n') == 1 and words in err and not out


@pytest.mark.parametrize('objective', ['mean', 'coin'])
def test_resume_is_the_uninterrupted_run(objective, start, lucky, tmp_path):
    start = [*start, '--objective', objective, '--entropy', 0]
    run(*start, '--steps', 4, '--log_interval', 1, '--out_dir', tmp_path / 'whole')
    argv = [*start, '--log_interval', 1, '--out_dir', tmp_path / 'parts']
    run(*argv, '--steps', 2)
    half = weights(tmp_path / 'parts')
    run(*argv, '--steps', 4, '--resume')
    assert records(tmp_path / 'parts') == records(tmp_path / 'whole')
    assert all(0 < record['reward'] < 1 for record in records(tmp_path / 'whole')[1:-1])
    a = weights(tmp_path / 'whole')
    b = weights(tmp_path / 'parts')
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], half[name]) for name in a)


def test_resume_refuses_other_held_out_puzzles(start, lucky, tmp_path):
    argv = [*start, '--log_interval', 1, '--out_dir', tmp_path / 'run']
    (tmp_path / 'puzzles.txt').write_text(FILE)
    argv += ['--puzzles', tmp_path / 'puzzles.txt']
    run(*argv, '--steps', 1)
    files = {path: path.read_bytes() for path in (tmp_path / 'run').iterdir()}
    (tmp_path / 'puzzles.txt').write_text('1 2 12')
    for steps in (1, 2):
        code, _, err = call(*argv, '--steps', steps, '--resume')
        assert code == 2 and err.count('\n') == 1 and 'holds out other puzzles' in err
    assert {path: path.read_bytes() for path in (tmp_path / 'run').iterdir()} == files


def test_a_checkpoint_that_does_not_say_what_it_held_out_is_refused(start, tmp_path, monkeypatch):
    save = common.Run.save

    def save_less(run, *args, held_out, **more):
        save(run, *args, **more)
    with monkeypatch.context() as patch:
        patch.setattr(common.Run, 'save', save_less)
        run(*start, '--steps', 1, '--out_dir', tmp_path / 'run')
    code, _, err = call(*start, '--steps', 2, '--out_dir', tmp_path / 'run', '--resume')
    assert code == 2 and err.count('\n') == 1 and 'holds out other puzzles' in err
    code, _, err = call_script(search, [
        '--ckpt', str(tmp_path / 'run/ckpt.pt'), '--puzzles', start[3], '--device', 'cpu',
        '--out_dir', str(tmp_path / 'search')])
    assert code == 2 and 'does not say which puzzles' in err


def test_two_processes_do_what_one_does_with_twice_the_batch(start, two_processes, tmp_path):
    """With coins as rewards: this model solves nothing, and another reward would never differ."""
    argv = [*start, '--steps', '5', '--log_interval', '1', '--objective', 'coin']
    done = two_processes('train_puzzles.py', *argv, '--out_dir', str(tmp_path / 'two'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1
    run(*argv, '--batch_size', 8, '--out_dir', tmp_path / 'one')
    one = records(tmp_path / 'one')
    two = records(tmp_path / 'two')
    assert len(one) == len(two) == 7
    for a, b in zip(one[:-1], two[:-1], strict=True):
        for name in ('samples', 'reward', 'legal', 'left_out', 'pass_at_group', 'greedy'):
            assert a.get(name) == b.get(name)
    assert all(0 < record['reward'] < 1 for record in one[1:-1])
    a = weights(tmp_path / 'one')
    b = weights(tmp_path / 'two')
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-4


# -----------------------------------------------------------------------------
# bad input

@pytest.mark.parametrize('argv, words', [
    ('--target 30', '--holdout_targets 30'),
    ('--targets 5', 'targets go from 10 to 100'),
    ('--targets 10-101', 'targets go from 10 to 100'),
    ('--targets x', 'expected'),
    ('--puzzles nowhere.txt', 'nowhere.txt'),
    ('--group_size 1', 'at least 2'),
    ('--init_from nowhere.pt', 'nowhere.pt'),
    ('--baseline ema', 'ema'),
    ('--pass_k 0', 'at least 1'),
    ('--target 36', 'cannot make 36 in whole numbers, such as 2 3 4'),
])
def test_what_makes_no_sense_is_one_line(argv, words, start, tmp_path):
    code, out, err = call(*start, *argv.split(), '--out_dir', tmp_path / 'new')
    assert code == 2 and err.count('\n') == 1 and words in err and not out
    assert not (tmp_path / 'new').exists()


def test_a_checkpoint_is_needed_and_of_countdown(tmp_path):
    code, _, err = call('--out_dir', tmp_path / 'new')
    assert code == 2 and '--init_from takes a checkpoint' in err
    code, _, err = call_script(train_cot, [
        '--nodes', '6', '--hops', '1', '--steps', '1', '--n_embd', '8', '--n_head', '1', '--mode',
        'cot', '--n_test', '4', '--device', 'cpu', '--out_dir', str(tmp_path / 'cycle')])
    assert code == 0, err
    code, _, err = call('--init_from', tmp_path / 'cycle/ckpt.pt', '--out_dir', tmp_path / 'new')
    assert code == 2 and 'cycle' in err and err.count('\n') == 1


def test_a_model_that_has_played_is_refused(start, tmp_path):
    """It may have been trained on the puzzles that are held out now."""
    run(*start, '--steps', 1, '--out_dir', tmp_path / 'first')
    code, _, err = call(*start, '--init_from', tmp_path / 'first/ckpt.pt', '--out_dir',
                        tmp_path / 'second')
    assert code == 2 and err.count('\n') == 1 and 'may have played' in err


def test_a_model_of_verdicts_alone_cannot_play(tmp_path):
    code, _, err = call_script(train_cot, (
        f'--task countdown --numbers 3 --mode direct --n_layer 1 --n_head 1 --n_embd 8 --steps 1 '
        f'--n_test 4 --device cpu --out_dir {tmp_path}/verdicts').split())
    assert code == 0, err
    path = next((tmp_path / 'verdicts').glob('ckpt*.pt'))
    code, _, err = call('--init_from', path, '--out_dir', tmp_path / 'new')
    assert code == 2 and 'verdicts alone' in err
