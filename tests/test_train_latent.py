"""train_latent.py: thoughts are read like tokens, gradients flow through them, and what is said
about them is counted by hand."""

import json

import pytest
import torch
from conftest import call as call_script
from conftest import final_values

import jacobi
import probe
import sample
import search
import train_cot
import train_latent
import train_rl
from common import load_checkpoint
from data import Cycle, sample_batch
from model import GPT, GPTConfig
from train_latent import Thinker


TASK = Cycle(6, [1, 2, 3, 4])
TINY = ('--nodes 6 --hops 1-3 --n_embd 16 --n_head 2 --batch_size 8 --n_test 40 --device cpu '
        '--lr 1e-2').split()


def call(module, *argv):
    return call_script(module, [str(word) for word in argv])


def run(*argv):
    """train_latent in this process; returns the words of its last line."""
    code, out, err = call(train_latent, *argv)
    assert code == 0, err
    return final_values(out)


def records(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def without_seconds(log):
    return [{name: value for name, value in record.items() if name != 'seconds'} for record in log]


def random_model(n_layer=1, n_loop=1, n_head=1, dtype=torch.float32):
    torch.manual_seed(3)
    model = GPT(GPTConfig(len(TASK.vocab), TASK.block_size, n_layer, n_head, 16, n_loop))
    return model.to(dtype).eval()


def questions(B=5, hops=4):
    """Prompts (B, P), chains (B, hops) and the batch."""
    batch = sample_batch(TASK, B, 0, 0, hops=hops)
    return batch.tokens[:, :batch.prompt_len], train_latent.chain_of(batch), batch


def noise_like(B, n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, n, len(TASK.vocab), generator=generator, dtype=dtype)


# -----------------------------------------------------------------------------
# thinking

@pytest.mark.parametrize('feed', ['soft', 'hidden', 'raw', 'pause', 'token', 'straight_through'])
@pytest.mark.parametrize('n_layer, n_loop', [(1, 1), (2, 2)])
def test_thinking_with_a_cache_is_one_pass_over_prompt_and_thoughts(feed, n_layer, n_loop):
    """Read prompt and thoughts in a single pass without a cache: the outputs are the same."""
    model = random_model(n_layer, n_loop, n_head=2)
    prompt, chain, _ = questions()
    P = prompt.size(1)
    logits, thoughts = Thinker(model, feed, TASK.pad)(prompt, 4, chain=chain)

    position = slice(0, P + 3)
    x = torch.cat((model.wte(prompt), thoughts), dim=1)
    whole = model.head(model.residual(model.embed(x, position), position))
    torch.testing.assert_close(logits, whole[:, P - 1:], rtol=1e-5, atol=1e-5)


def test_a_thought_is_what_its_name_says():
    model = random_model()
    prompt, chain, _ = questions()
    P = prompt.size(1)
    position = slice(0, P)
    x = model.residual(model.embed(model.wte(prompt), position), position)[:, -1]
    logits = model.head(x)
    expected = {
        'soft': logits.softmax(dim=-1) @ model.wte.weight,
        'hidden': model.ln_f(x),
        'raw': x,
        'straight_through': model.wte(logits.argmax(dim=-1)),
        'pause': model.wte(torch.full((len(x),), TASK.pad)),
        'token': model.wte(logits.argmax(dim=-1)),
    }
    for feed, vector in expected.items():
        _, thoughts = Thinker(model, feed, TASK.pad)(prompt, 2)
        torch.testing.assert_close(thoughts[:, 0], vector, rtol=1e-5, atol=1e-5)

    # in training: the true links, and a sample of the output
    _, thoughts = Thinker(model, 'token', TASK.pad)(prompt, 4, chain=chain)
    assert torch.equal(thoughts, model.wte(chain[:, :3]))
    noise = 100 * noise_like(5, 3)
    _, thoughts = Thinker(model, 'straight_through', TASK.pad)(prompt, 2, noise=noise)
    sampled = (logits + noise[:, 0]).argmax(dim=-1)
    assert (sampled != logits.argmax(dim=-1)).any()
    torch.testing.assert_close(thoughts[:, 0], model.wte(sampled), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('feed', ['token', 'soft', 'hidden', 'raw', 'pause', 'direct'])
@pytest.mark.parametrize('n_layer, n_loop', [(1, 1), (2, 1), (1, 2)])
def test_gradients_through_the_chain_are_finite_differences(feed, n_layer, n_loop):
    """Along a random direction of all weights. straight_through has no such gradient: its forward
    pass is a step function (see the next test)."""
    model = random_model(n_layer, n_loop, dtype=torch.float64)
    prompt, chain, _ = questions()
    thinker = Thinker(model, feed, TASK.pad)
    K = train_latent.n_outputs(feed, 4)

    def loss():
        logits, _ = thinker(prompt, K, chain=chain)
        return torch.nn.functional.cross_entropy(logits[:, -1], chain[:, -1])

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype)
                 for p in model.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), direction, strict=True))
    with torch.no_grad():
        values = []
        for sign in (1, -2):
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(d, alpha=sign * 1e-6)
            values.append(loss())
    assert slope.abs() > 1e-3
    assert abs((values[0] - values[1]) / 2e-6 / slope - 1) < 1e-5


def test_straight_through_has_the_gradient_of_the_soft_thought():
    """Its gradient is that of the probabilities, with the sampled token as the value."""
    model = random_model()
    x = torch.randn(5, 16)
    logits = torch.randn(5, len(TASK.vocab), requires_grad=True)
    weight = torch.randn(5, 16)
    gradients = []
    for feed in ('straight_through', 'soft'):
        thought = Thinker(model, feed, TASK.pad).make_thought(x, logits)
        (gradient,) = torch.autograd.grad((thought * weight).sum(), logits)
        gradients.append(gradient)
    assert gradients[0].abs().max() > 0.01
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('feed', ['soft', 'hidden', 'pause'])
def test_no_thought_sees_a_later_one(feed):
    """A vector in the place of thought 2 changes output 3 and no earlier one."""
    thinker = Thinker(random_model(2), feed, TASK.pad)
    prompt, _, _ = questions()
    before, thoughts = thinker(prompt, 4)
    after, new_thoughts = thinker(prompt, 4, replaced={2: torch.ones(5, 16)})
    assert torch.equal(before[:, :2], after[:, :2])
    assert torch.equal(thoughts[:, :1], new_thoughts[:, :1])
    assert (new_thoughts[:, 1] == 1).all()
    assert not torch.isclose(before[:, 2:], after[:, 2:]).all(dim=-1).any()


def test_no_question_sees_another_one():
    thinker = Thinker(random_model(2), 'hidden', TASK.pad)
    prompt, _, _ = questions()
    together, _ = thinker(prompt, 4)
    for row in range(5):
        alone, _ = thinker(prompt[row:row + 1], 4)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_a_pause_in_one_pass_or_in_several_is_the_same_function():
    """The pause does not depend on the outputs. So all of them can be read with the prompt, as
    filler tokens in one forward pass. So a gap between the two can only be noise."""
    model = random_model(3, 1, 2)
    prompt, _, _ = questions(40)
    P = prompt.size(1)
    in_several, _ = Thinker(model, 'pause', TASK.pad)(prompt, 4)
    fillers = torch.full((40, 3), TASK.pad)
    in_one = model(torch.cat((prompt, fillers), dim=1))[:, P - 1:]
    assert (in_several - in_one).abs().max() < 1e-6


def test_shared_positions_are_those_of_the_first_thought():
    model = random_model()
    prompt, _, _ = questions()
    P = prompt.size(1)
    apart, _ = Thinker(model, 'soft', TASK.pad)(prompt, 4)
    shared, _ = Thinker(model, 'soft', TASK.pad, share_position=True)(prompt, 4)
    torch.testing.assert_close(shared[:, :2], apart[:, :2])
    assert not torch.isclose(shared[:, 2:], apart[:, 2:]).all()
    with torch.no_grad():
        model.wpe.weight[P + 1:] = model.wpe.weight[P]
    same, _ = Thinker(model, 'soft', TASK.pad)(prompt, 4)
    torch.testing.assert_close(same, shared)


# -----------------------------------------------------------------------------
# training

def test_token_is_the_chain_arm_of_train_cot(tmp_path):
    """The same weights after ten steps, up to rounding."""
    argv = ('--nodes 6 --hops 1-3 --n_layer 2 --n_head 2 --n_embd 16 --batch_size 32 --steps 10 '
            '--lr 1e-2 --warmup_iters 3 --n_test 20 --device cpu').split()
    run(*argv, '--feed', 'token', '--out_dir', tmp_path / 'latent')
    code, _, err = call(train_cot, *argv, '--mode', 'cot', '--out_dir', tmp_path / 'cot')
    assert code == 0, err
    ours, state = load_checkpoint(tmp_path / 'latent' / 'ckpt_token.pt')
    theirs, _ = load_checkpoint(tmp_path / 'cot' / 'ckpt.pt')
    assert state['mode'] == 'cot'
    torch.manual_seed(1337)
    fresh = GPT(ours.config)
    for p, q, r in zip(ours.parameters(), theirs.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        assert (p - r).abs().max() > 1e-3


@pytest.mark.parametrize('feed', ['soft', 'pause', 'direct'])
def test_only_the_answer_carries_loss(feed, tmp_path, monkeypatch):
    """Other links than the answer may be anything: the training is the same."""
    argv = [*TINY, '--feed', feed, '--steps', 5]
    run(*argv, '--out_dir', tmp_path / 'true')
    real = train_latent.sample_batch

    def noisy(task, size, seed, step, split='train', *rest, **options):
        batch = real(task, size, seed, step, split, *rest, **options)
        if split == 'train':
            place = torch.arange(batch.tokens.size(1))
            is_other = (place >= batch.prompt_len) & (place != batch.answer)
            batch.tokens[is_other] = 0
        return batch

    monkeypatch.setattr(train_latent, 'sample_batch', noisy)
    monkeypatch.setattr(train_latent, 'look_into_thoughts', lambda *args: None)
    monkeypatch.setattr(train_latent, 'VECTORS', ())
    run(*argv, '--out_dir', tmp_path / 'noisy')
    a, _ = load_checkpoint(tmp_path / 'true' / f'ckpt_{feed}.pt')
    b, _ = load_checkpoint(tmp_path / 'noisy' / f'ckpt_{feed}.pt')
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


class Cut(Exception):
    pass


def cut_after(n_batches):
    """sample_batch, but training ends with an exception after so many batches."""
    real = train_latent.sample_batch
    n_left = n_batches

    def limited(task, size, seed, step, split='train', *rest, **options):
        nonlocal n_left
        if split == 'train' and step < train_latent.PROBE_STEP:
            if n_left == 0:
                raise Cut
            n_left -= 1
        return real(task, size, seed, step, split, *rest, **options)

    return limited


@pytest.mark.parametrize('n_batches', [3, 8, 12, 17])
def test_resume_after_any_stop_is_the_uninterrupted_run(n_batches, tmp_path, monkeypatch):
    """Cut off in either of two kinds of thoughts, also at a checkpoint."""
    argv = [*TINY, '--feed', 'straight_through,hidden', '--steps', 10, '--eval_interval', 4]
    whole = run(*argv, '--out_dir', tmp_path / 'whole')
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(train_latent, 'sample_batch', cut_after(n_batches))
        call(train_latent, *argv, '--out_dir', tmp_path / 'cut')
    resumed = run(*argv, '--out_dir', tmp_path / 'cut', '--resume')

    del whole['seconds'], resumed['seconds']
    assert resumed == whole
    logs = [without_seconds(records(tmp_path / name)) for name in ('cut', 'whole')]
    assert logs[0] == logs[1]
    for feed in ('straight_through', 'hidden'):
        a, _ = load_checkpoint(tmp_path / 'cut' / f'ckpt_{feed}.pt')
        b, _ = load_checkpoint(tmp_path / 'whole' / f'ckpt_{feed}.pt')
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q)


def test_two_processes_do_what_one_does_with_twice_the_batch(two_processes, tmp_path):
    argv = [*TINY, '--feed', 'straight_through,soft', '--steps', 12, '--eval_interval', 3]
    done = two_processes('train_latent.py', *map(str, argv), '--out_dir', str(tmp_path / 'two'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1  # rank 0 alone speaks
    run(*argv, '--batch_size', 16, '--out_dir', tmp_path / 'one')
    one = records(tmp_path / 'one')
    two = records(tmp_path / 'two')
    assert len(one) == len(two) == 11
    for a, b in zip(one[:-1], two[:-1], strict=True):
        assert (a['arm'], a['step'], a['questions']) == (b['arm'], b['step'], b['questions'])
        if a['step'] > 0:
            assert abs(a['loss'] - b['loss']) < 1e-4
    for feed in ('straight_through', 'soft'):
        a, _ = load_checkpoint(tmp_path / 'one' / f'ckpt_{feed}.pt')
        b, _ = load_checkpoint(tmp_path / 'two' / f'ckpt_{feed}.pt')
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_other_thoughts_is_refused(tmp_path):
    argv = [*TINY, '--feed', 'soft,raw', '--steps', 2, '--out_dir', tmp_path]
    run(*argv)
    (tmp_path / 'ckpt_raw.pt').unlink()
    (tmp_path / 'ckpt_soft.pt').rename(tmp_path / 'ckpt_raw.pt')
    log = (tmp_path / 'log.jsonl').read_text()
    code, _, err = call(train_latent, *argv, '--resume')
    assert code == 2 and err.count('\n') == 1
    assert 'holds the thoughts soft, not raw' in err
    assert (tmp_path / 'log.jsonl').read_text() == log and not (tmp_path / 'ckpt_soft.pt').exists()


def test_scripts_that_read_tokens_refuse_thoughts(tmp_path):
    run(*TINY, '--feed', 'hidden', '--steps', 2, '--out_dir', tmp_path)
    for module, flag in ((sample, '--ckpt'), (jacobi, '--ckpt'), (probe, '--ckpt'),
                         (search, '--ckpt'), (train_rl, '--init_from')):
        code, out, err = call(module, flag, tmp_path / 'ckpt_hidden.pt')
        assert code == 2 and err.count('\n') == 1
        assert 'thinks in vectors, not in tokens' in err


def test_a_model_that_thinks_is_evaluated_again_from_its_checkpoint(tmp_path):
    final = run(*TINY, '--feed', 'soft', '--steps', 20, '--test_hops', 5, '--out_dir', tmp_path)
    again = run('--eval_only', '--ckpt', tmp_path / 'ckpt_soft.pt', '--device', 'cpu')
    del final['seconds'], again['seconds']
    assert again == final
    assert 'acc_soft_h5' in final


# -----------------------------------------------------------------------------
# what a thought is

class Plain(torch.nn.Module):
    """A thinker that is right: thought t is the unit vector of c_t, in an order of its own. So a
    probe can read it, and the head, whose order is another, says something else."""

    def __init__(self, says_it, reads_it=True):
        super().__init__()
        self.feed = 'hidden'
        self.says_it = says_it
        self.reads_it = reads_it  # False: the answer does not depend on the thoughts
        self.share_position = False
        self.model = random_model()

    def forward(self, prompt, n_outputs, chain=None, noise=None, replaced=None):
        n = TASK.nodes
        code = torch.eye(n)[torch.arange(n).roll(2)]
        table = prompt[:, :n]
        node = prompt[:, -1]
        true_node = node
        logits = []
        thoughts = []
        for t in range(1, n_outputs + 1):
            node = table.gather(1, node[:, None])[:, 0]
            true_node = table.gather(1, true_node[:, None])[:, 0]
            said = node if self.says_it or t == n_outputs else (node + 1) % n
            if t == n_outputs and not self.reads_it:
                said = true_node
            logits.append(9.0 * torch.eye(len(TASK.vocab))[said])
            if t < n_outputs:
                thought = code[node]
                if replaced is not None and t in replaced:
                    thought = replaced[t]
                    node = (thought @ code.T).argmax(dim=-1)
                thoughts.append(thought)
        return torch.stack(logits, dim=1), torch.stack(thoughts, dim=1)


class Here:
    """What look_into_thoughts needs of a Run."""
    device = torch.device('cpu')
    autocast = torch.autocast('cpu', enabled=False)


def look(thinker):
    return train_latent.look_into_thoughts(thinker, TASK, Here, 0, 600, ('train', 'test'))


def flip_rate(*args):
    return train_latent.flip_rate(*args, Here)


@pytest.mark.parametrize('says_it', [True, False])
def test_what_is_in_the_thoughts_of_a_thinker_made_by_hand(says_it):
    """Thought t holds c_t, and the answer follows from it. A word if the head says it, too, and a
    private code if it does not."""
    measures = look(Plain(says_it))
    for t in range(3):
        assert measures['lens'][t][t] == (1.0 if says_it else 0.0)
        assert measures['probe'][t][t] == 1.0
        assert measures['flip'][t] == 1.0
        assert measures['random'][t] < 0.9
        for j in range(4):
            if j != t:
                assert measures['probe'][t][j] < 0.5  # nothing else is in it
    p = torch.tensor([9.0] + [0.0] * (len(TASK.vocab) - 1)).softmax(dim=0)
    entropy = -(p * p.log()).sum().item()
    assert measures['entropy'] == pytest.approx([entropy] * 3, abs=1e-4)


def test_hard_tokens_are_the_most_likely_ones():
    """The accuracy of the same model that reads its own greedy tokens, on the same questions."""
    plain = Plain(True)
    batch = sample_batch(TASK, 600, 0, train_latent.PROBE_STEP, 'test', hops=4)
    prompt = batch.tokens[:, :batch.prompt_len]
    accuracy = {}
    for feed in ('token', 'hidden'):
        with torch.no_grad():
            logits, _ = Thinker(plain.model, feed, TASK.pad)(prompt, 4)
        right = logits[:, -1].argmax(dim=-1) == train_latent.chain_of(batch)[:, -1]
        accuracy[feed] = right.float().mean().item()
    assert accuracy['token'] != accuracy['hidden']
    measures = look(plain)
    assert measures['hard'] == accuracy['token'] and measures['acc'] == 1.0


def test_thoughts_that_are_not_used_flip_nothing():
    measures = look(Plain(True, reads_it=False))
    assert measures['flip'] == [0.0] * 3
    assert [measures['probe'][t][t] for t in range(3)] == [1.0] * 3


def test_flips_are_counted_as_a_plain_walk_counts_them():
    """Thoughts of question i come from question i - 1, whose node is looked up in i's table."""
    batch = sample_batch(TASK, 50, 0, 0, hops=4)
    prompt = batch.tokens[:, :batch.prompt_len]
    thinker = Plain(True, reads_it=False)
    logits, thoughts = thinker(prompt, 4)
    logits[:, -1] = torch.eye(len(TASK.vocab))[torch.zeros(50, dtype=torch.long)]  # always says 0
    thinker.forward = lambda *args, **options: (logits, thoughts)
    chain = train_latent.chain_of(batch).tolist()
    n_counted = 0
    for i in range(50):
        node = chain[i - 1][1]
        differs = node != chain[i][1]
        for _ in range(2):
            node = prompt[i].tolist()[node]
        n_counted += differs and node != 0
    assert n_counted > 20
    other = thoughts[:, 1].roll(1, 0)
    assert flip_rate(thinker, batch, logits, 2, other) == 0.0
    patched = logits.clone()
    patched[0, -1] = 0.0
    node = chain[-1][1]
    for _ in range(2):
        node = prompt[0].tolist()[node]
    assert node != 0 and chain[-1][1] != chain[0][1]
    patched[0, -1, node] = 1.0  # question 0 alone follows
    thinker.forward = lambda *args, **options: (patched, thoughts)
    rate = flip_rate(thinker, batch, logits, 2, other)
    assert rate == pytest.approx(1 / n_counted)


# -----------------------------------------------------------------------------
# command line

def test_the_last_line_has_a_value_for_each_kind_of_thought(tmp_path):
    final = run(*TINY, '--steps', 3, '--test_hops', '4-5', '--out_dir', tmp_path)
    feeds = ('token', 'soft', 'hidden', 'raw', 'straight_through', 'pause')
    for feed in feeds:
        assert {f'acc_{feed}', f'acc_{feed}_h4', f'acc_{feed}_h5',
                f'questions_95_{feed}'} < final.keys()
    for feed in train_latent.VECTORS:
        assert {f'{name}_{feed}' for name in ('lens', 'probe', 'flip', 'random', 'hard')
                } < final.keys()
    assert final['questions_95_soft'] == 'none'
    assert list(final)[:2] == ['task', 'hops'] and list(final)[-2:] == ['seed', 'seconds']


@pytest.mark.parametrize('feed', ['token', 'soft', 'direct'])
def test_a_batch_may_lack_the_most_hops(feed, tmp_path):
    """Of 2 questions of 1 to 3 hops, often none has 3."""
    final = run(*TINY, '--feed', feed, '--batch_size', 2, '--steps', 12, '--out_dir', tmp_path)
    assert final['steps'] == '12'


def test_the_fewest_test_questions(tmp_path):
    final = run(*TINY, '--feed', 'soft', '--steps', 2, '--n_test', 10, '--out_dir', tmp_path)
    assert 'probe_soft' in final


def test_longer_questions_than_positions_need_shared_ones(tmp_path):
    argv = [*TINY, '--feed', 'soft', '--steps', 3]
    for name, words in (('apart', []), ('shared', ['--share_position'])):
        run(*argv, *words, '--out_dir', tmp_path / name)
        code, out, err = call(train_latent, '--eval_only', '--ckpt',
                              tmp_path / name / 'ckpt_soft.pt', '--test_hops', '4-5')
        if name == 'apart':
            assert code == 2 and err.count('\n') == 1 and 'give it when training' in err
        else:
            assert code == 0 and 'acc_soft_h5' in final_values(out)


def test_longer_questions_say_the_largest_count_that_was_trained(tmp_path, monkeypatch):
    """Also where fewer hops are evaluated beside them."""
    run(*TINY, '--feed', 'soft', '--steps', 30, '--share_position', '--out_dir', tmp_path)
    argv = ['--eval_only', '--ckpt', tmp_path / 'ckpt_soft.pt', '--test_hops', 5]
    hop_tokens = []
    real = train_latent.evaluate

    def spy(thinker, task, run, seed, n_test, split, hop_token=None):
        if hop_token is not None:
            hop_tokens.append(task.vocab[hop_token])
        return real(thinker, task, run, seed, n_test, split, hop_token)

    monkeypatch.setattr(train_latent, 'evaluate', spy)
    whole = run(*argv)
    fewer = run(*argv, '--hops', 1)
    assert hop_tokens == ['k=3', 'k=3']
    assert whole['acc_soft_h5'] == fewer['acc_soft_h5'] and whole['params'] == fewer['params']


def test_one_vector_more_or_less_in_bfloat16(tmp_path):
    """A thought in the place of itself changes nothing, also under autocast."""
    model = random_model()
    thinker = Thinker(model, 'soft', TASK.pad)
    batch = sample_batch(TASK, 300, 0, 0, hops=4)
    here = Here()
    here.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
    with torch.no_grad():
        logits, thoughts = train_latent.think_in_parts(thinker, batch, 4, here)
        again, _ = train_latent.think_in_parts(thinker, batch, 4, here, {1: thoughts[:, 0]})
    assert torch.equal(logits.argmax(dim=-1), again.argmax(dim=-1))


def test_a_run_whose_config_is_damaged_goes_on(tmp_path):
    argv = [*TINY, '--feed', 'soft', '--steps', 4, '--eval_interval', 2, '--out_dir', tmp_path]
    whole = run(*argv)
    (tmp_path / 'config.json').write_text('{')
    again = run(*argv, '--resume')
    assert again['acc_soft'] == whole['acc_soft']


def test_the_arms_are_trained_on_the_same_questions_from_the_same_weights(tmp_path):
    """A kind of thought does not depend on which others are trained before it."""
    argv = [*TINY, '--steps', 4, '--eval_interval', 2]
    run(*argv, '--feed', 'soft,straight_through,raw', '--out_dir', tmp_path / 'all')
    run(*argv, '--feed', 'raw', '--out_dir', tmp_path / 'alone')
    a, _ = load_checkpoint(tmp_path / 'all' / 'ckpt_raw.pt')
    b, _ = load_checkpoint(tmp_path / 'alone' / 'ckpt_raw.pt')
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.slow
def test_soft_and_hidden_learn_what_a_pause_cannot(tmp_path):
    final = run('--feed', 'soft,hidden,pause', '--device', 'cpu', '--out_dir', tmp_path)
    assert float(final['acc_soft']) >= 0.99 and float(final['acc_hidden']) >= 0.99
    assert float(final['acc_pause']) <= float(final['chance']) + 0.05
