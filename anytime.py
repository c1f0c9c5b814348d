"""One model for any budget: what is its answer worth if it thinks for longer, or for less long?

FactorExe hopes to "query these factorized models for arbitrary compute budgets". Here one layer
answers questions of 1 to K hops, and a budget is a number of passes r through it. For the third
measurement of scaling.py, three models are trained on the same fresh questions:

    state    The question is read once. Then its last position passes through the layer r times. In
             each pass it looks at the other positions, which stay as they were.
    whole    the usual looped transformer: all positions pass through the layer r times
    chain    A pass writes one token of a chain, and every token has a loss. This is the reference.

For `state` and `whole`, a random r from 1 to K is drawn in each step (as in Geiping et al. 2025,
2502.05171). The answer to a question of h hops is asked for after each pass from the h-th to the
r-th. So a model shall have the answer after h passes, and keep it. (Questions of K hops carry loss
only if r is K. A chain carries loss in every step.) The test has up to 2 K passes: twice as many as
in training.
"""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F

from data import sample_batch
from model import GPT, GPTConfig, LossPositions, last_position


KINDS = ('state', 'whole', 'chain')
PASSES = 7      # stream of random numbers, beside those in data.STREAMS: how many passes
WARMUP = 100    # steps, at most a third of all
DECAY = 0.4     # the last part of the steps, in which the learning rate falls to 0


# -----------------------------------------------------------------------------
# models

def make_config(kind, task, args):
    """One layer. n_loop says how often it will be applied, so that it begins small enough."""
    n_loop = 1 if kind == 'chain' else max(task.hops)
    return GPTConfig(len(task.vocab), task.block_size, 1, args.n_head, args.n_embd, n_loop)


def logits_after_each_pass(kind, model, prompt, n_passes):
    """What a model would answer after 1, 2, ..., n_passes passes, (B, n_passes, V).

    kind: 'state' or 'whole'. prompt (B, P).
    """
    block = model.blocks[0]
    question = model.embed(model.wte(prompt), slice(0, prompt.size(1)))   # (B, P, C)
    at_the_end = LossPositions(last_position(prompt), causal=True)
    x = question
    logits = []
    for _ in range(n_passes):
        if kind == 'whole':
            x = block(x)                                                  # (B, P, C)
            state = x[:, -1]
        else:
            state = block(x, loss_positions=at_the_end)                   # (B, C)
            x = torch.cat((question[:, :-1], state[:, None]), dim=1)      # (B, P, C)
        logits.append(model.head(state))
    return torch.stack(logits, dim=1)


def loss_of(kind, model, batch, n_passes):
    """Mean cross-entropy: of the answer after every pass from the h-th to the n_passes-th, in the
    rows that have so many. For a chain, of all its tokens."""
    if kind == 'chain':
        mask = batch.loss_mask[:, 1:]
        logits = model(batch.tokens[:, :-1], mask)                        # (N, V)
        return F.cross_entropy(logits.float(), batch.tokens[:, 1:][mask])
    prompt = batch.tokens[:, :batch.prompt_len]
    answer = batch.tokens.gather(1, batch.answer)                         # (B, 1)
    logits = logits_after_each_pass(kind, model, prompt, n_passes)        # (B, r, V)
    number = torch.arange(1, n_passes + 1, device=prompt.device)
    mask = number >= batch.hops[:, None]                                  # (B, r)
    return F.cross_entropy(logits[mask].float(), answer.expand(-1, n_passes)[mask])


def flops_after_each_pass(kind, model, prompt_len, n_passes):
    """Matrix products for one question with 1, 2, ..., n_passes passes, as a list.

    The first pass reads the whole question. Each later one adds one token to it, or goes through
    the state alone, or through all positions. A chain needs the head in every pass, the others in
    the last one alone.
    """
    config = GPTConfig(**(vars(model.config) | {'n_loop': 1}))
    one_layer = GPT(config)
    read = one_layer.flops(prompt_len, 1, prompt_len)
    n_again = prompt_len if kind == 'whole' else 1  # positions of a later pass
    again = one_layer.flops(n_again, n_again, prompt_len)
    if kind != 'chain':
        again -= 2 * n_again * config.n_embd * config.vocab_size
    return [read + (r - 1) * again for r in range(1, n_passes + 1)]


# -----------------------------------------------------------------------------
# accuracy at every budget

@torch.no_grad()
def evaluate(kind, model, task, seed, n, split, run, n_passes):
    """Accuracy on n held-out questions of each hop count after each number of passes, a list of
    lists (hops, n_passes).

    A chain of h tokens is over after h passes. Before that, its last token counts as the answer.
    """
    model.eval()
    accuracy = []
    for hops in task.hops:
        n_right = torch.zeros(n_passes, device=run.device)
        for first in range(0, n, 500):
            B = min(500, n - first)
            batch = sample_batch(task, B, seed, hops * 10**6 + first, split, hops=hops)
            batch = batch.to(run.device)
            prompt = batch.tokens[:, :batch.prompt_len]
            answer = batch.tokens.gather(1, batch.answer)                 # (B, 1)
            with run.autocast:
                if kind == 'chain':
                    chain = model.generate(prompt, hops)[:, batch.prompt_len:]
                    said = chain[:, [min(r, hops) - 1 for r in range(1, n_passes + 1)]]
                else:
                    logits = logits_after_each_pass(kind, model, prompt, n_passes)
                    said = logits.argmax(dim=-1)                          # (B, n_passes)
            n_right += (said == answer).sum(dim=0)
        accuracy.append((n_right / n).tolist())
    return accuracy


def lowest(accuracy, hops, least, most):
    """The lowest accuracy with so many passes, and as many as the question has hops at least.

    accuracy (hops, n_passes), hops: its rows' hop counts. None if there are no such passes.
    """
    values = []
    for k, of_passes in zip(hops, accuracy, strict=True):
        values += of_passes[max(k, least) - 1:most]
    return min(values) if values else None


# -----------------------------------------------------------------------------
# training

def get_lr(step, rate, n_steps):
    """Linear warm-up, a constant rate, then linearly to zero."""
    warmup = min(WARMUP, n_steps // 3)
    n_decay = max(1, round(DECAY * n_steps))
    return rate * min(1.0, (step + 1) / (warmup + 1), (n_steps - step) / n_decay)


def name_of(kind, rate, seed):
    return f'{kind}-rate-{rate:g}-seed-{seed}'


def train(kind, task, rate, seed, args, run):
    """Train one model on fresh questions for args.steps steps, and ask it with every budget.

    Returns a record: a dict of plain values. Raises RunEnded if a signal stops this process.
    """
    # the model, the optimizer
    began = time.time()
    name = name_of(kind, rate, seed)
    largest = max(task.hops)
    torch.manual_seed(seed)
    model = GPT(make_config(kind, task, args)).to(run.device)
    optimizer = model.configure_optimizer(rate, args.weight_decay)

    ended = 'steps'
    step = 0
    bar = run.progress_bar(name, step, args.steps)
    run.begin_training()
    while step < args.steps:
        run.check_signal_in_a_sweep()

        # forward and backward
        model.train()
        batch = sample_batch(task, args.batch_size, seed, step + 1, 'fit').to(run.device)
        fewest = int(batch.hops.min())  # with fewer passes no question could be answered
        rng = np.random.default_rng([seed, PASSES, step])
        n_passes = int(rng.integers(fewest, largest + 1))
        with run.autocast:
            loss = loss_of(kind, model, batch, n_passes)
        loss.backward()
        if not math.isfinite(loss.item()):
            ended = 'diverged'
            break

        # update
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, rate, args.steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
    bar.close()
    run.trains = False  # a signal may stop the evaluation at once

    # the learning rate is chosen by validation, over all hop counts with just enough passes
    n_passes = 2 * largest
    on_validation = evaluate(kind, model, task, seed, max(1, args.n_test // 4), 'validation', run,
                             n_passes)
    enough = [on_validation[i][k - 1] for i, k in enumerate(task.hops)]
    accuracy = evaluate(kind, model, task, seed, args.n_test, 'test', run, n_passes)
    prompt_len = task.block_size - largest
    return dict(name=name, kind=kind, rate=rate, seed=seed, ended=ended, step=step,
                right=float(np.mean(enough)), accuracy=accuracy, hops=list(task.hops),
                flops=flops_after_each_pass(kind, model, prompt_len, n_passes),
                params=model.num_params(), seconds=time.time() - began)
