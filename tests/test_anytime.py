"""anytime.py: a model that answers after any number of passes."""

import pytest
import torch
from test_scaling import FakeRun

import anytime
import scaling
from common import RunEnded
from data import Cycle, sample_batch
from model import GPT, GPTConfig


TASK = Cycle(7, [1, 2, 3])


def small_model(n_loop=1):
    torch.manual_seed(3)
    return GPT(GPTConfig(len(TASK.vocab), TASK.block_size, 1, 2, 16, n_loop)).eval()


def prompts(n=5):
    batch = sample_batch(TASK, n, 5, 0)
    return batch.tokens[:, :batch.prompt_len]


@pytest.mark.parametrize('n_passes', [1, 2, 4])
def test_whole_is_the_looped_transformer_of_model_py(n_passes):
    looped = small_model(n_passes)
    logits = anytime.logits_after_each_pass('whole', looped, prompts(), n_passes)
    torch.testing.assert_close(logits[:, -1], looped(prompts())[:, -1])


def test_the_first_pass_is_the_same_for_both():
    model = small_model()
    of_state = anytime.logits_after_each_pass('state', model, prompts(), 3)
    of_whole = anytime.logits_after_each_pass('whole', model, prompts(), 3)
    torch.testing.assert_close(of_state[:, 0], of_whole[:, 0])
    assert not torch.allclose(of_state[:, 1], of_whole[:, 1], atol=1e-3)


def test_a_state_looks_at_the_question_as_it_was_read():
    """By hand: the layer is applied to the embeddings, with the state in the last place."""
    model = small_model()
    prompt = prompts()
    logits = anytime.logits_after_each_pass('state', model, prompt, 3)
    embeddings = model.wte(prompt) + model.wpe.weight[:prompt.size(1)]
    state = embeddings[:, -1]
    for r in range(3):
        x = embeddings.clone()
        x[:, -1] = state
        state = model.blocks[0](x)[:, -1]
        torch.testing.assert_close(logits[:, r], model.head(state))


def test_more_passes_do_not_change_earlier_answers():
    model = small_model()
    for kind in ('state', 'whole'):
        few = anytime.logits_after_each_pass(kind, model, prompts(), 2)
        many = anytime.logits_after_each_pass(kind, model, prompts(), 5)
        torch.testing.assert_close(few, many[:, :2])


@pytest.mark.parametrize('kind', ['state', 'whole'])
def test_the_answer_is_asked_for_from_pass_h_on(kind):
    model = small_model()
    batch = sample_batch(TASK, 30, 5, 0)
    for n_passes in (1, 2, 3):
        logits = anytime.logits_after_each_pass(
            kind, model, batch.tokens[:, :batch.prompt_len], n_passes)
        losses = []
        for row in range(30):
            answer = batch.tokens[row, batch.answer[row, 0]]
            for r in range(int(batch.hops[row]), n_passes + 1):
                losses.append(-logits[row, r - 1].log_softmax(dim=-1)[answer])
        expected = torch.stack(losses).mean()
        torch.testing.assert_close(anytime.loss_of(kind, model, batch, n_passes), expected)


def test_accuracy_is_counted_for_each_budget():
    model = small_model()
    accuracy = anytime.evaluate('state', model, TASK, 5, 40, 'validation', FakeRun(), 4)
    for i, hops in enumerate(TASK.hops):
        batch = sample_batch(TASK, 40, 5, hops * 10**6, 'validation', hops=hops)
        logits = anytime.logits_after_each_pass(
            'state', model, batch.tokens[:, :batch.prompt_len], 4)
        answer = batch.tokens.gather(1, batch.answer)
        right = (logits.argmax(dim=-1) == answer).float().mean(dim=0)
        assert accuracy[i] == pytest.approx(right.tolist())


def test_before_its_end_the_last_token_of_a_chain_is_its_answer(monkeypatch):
    """A perfect chain: of a cycle no earlier link is the answer."""
    model = small_model()

    def perfect(prompt, n_tokens):
        node = prompt[:, -1:]
        chain = [prompt]
        for _ in range(n_tokens):
            node = prompt[:, :7].gather(1, node)
            chain.append(node)
        return torch.cat(chain, dim=1)

    monkeypatch.setattr(model, 'generate', perfect)
    accuracy = anytime.evaluate('chain', model, TASK, 5, 30, 'test', FakeRun(), 5)
    assert accuracy == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]


def test_the_lowest_accuracy_leaves_out_what_had_too_few_passes():
    accuracy = [[0.9, 0.8, 0.7, 0.6], [0.0, 0.95, 0.5, 0.4]]
    assert anytime.lowest(accuracy, [1, 2], 1, 2) == 0.8
    assert anytime.lowest(accuracy, [1, 2], 3, 4) == 0.4
    assert anytime.lowest(accuracy, [1, 2], 5, 6) is None


def test_flops_of_a_pass():
    """A state costs as much as a token of a chain, but for the head, and a pass through everything
    far more."""
    model = small_model()
    state = anytime.flops_after_each_pass('state', model, 9, 3)
    chain = anytime.flops_after_each_pass('chain', model, 9, 3)
    whole = anytime.flops_after_each_pass('whole', model, 9, 3)
    head = 2 * 16 * len(TASK.vocab)
    assert state[0] == chain[0] == whole[0] == model.flops(9, 1, 9)
    assert chain[2] - chain[1] == chain[1] - chain[0] == model.flops(1, 1, 9)
    assert chain[2] - state[2] == 2 * head
    looped = small_model(3)
    assert whole[2] == looped.flops(9, 1, 9)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [anytime.get_lr(step, 1e-2, 1000) for step in range(1001)]
    assert rates[0] < 2e-4 and rates[150] == rates[600] == 1e-2
    assert rates[800] == pytest.approx(5e-3) and rates[1000] == 0
    assert max(anytime.get_lr(step, 1e-2, 3) for step in range(3)) <= 1e-2


def test_training_looks_at_no_question_of_the_test(monkeypatch):
    """The rate is chosen by the validation questions, and the accuracy is that of the test."""
    splits = []
    real = anytime.sample_batch

    def remember(task, n, seed, step, split, **options):
        splits.append(split)
        return real(task, n, seed, step, split, **options)

    seen = []
    monkeypatch.setattr(anytime, 'sample_batch', remember)
    monkeypatch.setattr(anytime, 'evaluate', lambda kind, model, task, seed, n, split, *rest: (
        seen.append(split) or [[float(split == 'test')] * 4] * 2))
    args = scaling.parse_args('--measure budgets --hops 1,2 --nodes 5 --steps 3'.split())
    scaling.fill_in(args)
    record = anytime.train('state', scaling.make_task(2, args), 1e-2, 5, args, FakeRun())
    assert set(splits) == {'fit'} and seen == ['validation', 'test']
    assert record['right'] == 0 and record['accuracy'] == [[1.0] * 4] * 2


def test_a_signal_ends_a_training():
    class Stopped(FakeRun):
        def check_signal_in_a_sweep(self):
            raise RunEnded('stopped', exit_code=130)

    args = scaling.parse_args('--measure budgets --hops 1,2 --nodes 5 --steps 3'.split())
    scaling.fill_in(args)
    with pytest.raises(RunEnded):
        anytime.train('state', scaling.make_task(2, args), 1e-2, 5, args, Stopped())


def test_a_model_that_diverges_says_at_which_step(monkeypatch):
    loss_of = anytime.loss_of
    n_calls = 0

    def diverge(*args):
        nonlocal n_calls
        n_calls += 1
        return loss_of(*args) * (torch.inf if n_calls == 3 else 1)

    monkeypatch.setattr(anytime, 'loss_of', diverge)
    args = scaling.parse_args('--measure budgets --hops 1,2 --nodes 5 --steps 9 --n_test 8'.split())
    scaling.fill_in(args)
    record = anytime.train('chain', scaling.make_task(2, args), 1e-2, 5, args, FakeRun())
    assert (record['ended'], record['step']) == ('diverged', 2)


def test_a_state_learns_two_hops():
    argv = '--measure budgets --hops 1,2 --nodes 5 --n_embd 32 --steps 400 --batch_size 64'
    args = scaling.parse_args(argv.split())
    scaling.fill_in(args)
    task = scaling.make_task(2, args)
    record = anytime.train('state', task, 1e-2, 5, args, FakeRun())
    assert record['ended'] == 'steps' and record['right'] > 0.9
    assert record['accuracy'][1][0] < 0.6 < 0.9 < record['accuracy'][1][1]
    assert anytime.train('state', task, 1e-2, 5, args, FakeRun()) | {'seconds': 0} == (
        record | {'seconds': 0})
