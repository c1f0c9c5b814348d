"""Which baseline gives the least noisy gradient for the same number of sampled chains?

Measured at three stages of one default training run of train_rl.py.

    python results/studies/gradient_variance.py | tee results/studies/gradient_variance.txt

Each estimate of the gradient, without the entropy bonus, spends 1,792 chains in expectation:
    none, ema, loo    224 questions x 8 chains
    prefix, state     32 questions x 8 chains, and 4 fresh rollouts from each of a chain's k - 1
                      prefixes, which is 7 chains for one

'prefix' is VinePPO's step advantage. 'state' is FactorExe's baseline, from the same rollouts: the
reward minus the value of the prefix before the token.

noise   the trace of the covariance over 64 estimates
signal  the squared norm of their mean, from two halves, so that noise does not count as signal. At
        the first stage the noise hides it, and it may come out negative.

The losses are written apart from train_rl.py, not taken from it.
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from data import Cycle, sample_batch
from model import GPT, GPTConfig


GROUP_SIZE = 8
ROLLOUTS = 4
TASK = Cycle(nodes=10, hops=(1, 2, 3, 4))
STAGES = (0.1, 0.3, 0.7)  # mean rewards at which the gradients are measured
CHEAP = ('none', 'ema', 'loo')
COSTLY = ('prefix', 'state')  # they need fresh rollouts
KINDS = CHEAP + COSTLY


def is_right(batch, tokens):
    """The reward of each row: is the token at the answer's place the answer? (B,) float"""
    return (tokens.gather(1, batch.answer) == batch.tokens.gather(1, batch.answer))[:, 0].float()


def prefix_values(model, batch, tokens, reward, others):
    """The value of the first i tokens of each chain, (B, L + 1). Behind the answer it is known."""
    P = batch.prompt_len
    L = tokens.size(1) - P
    value = reward.repeat(1, L + 1)
    value[:, :1] = others
    for i in range(1, L):
        rows = (batch.hops > i).nonzero()[:, 0]
        output = model.generate(tokens[rows, :P + i], L - i, 1.0, samples=ROLLOUTS)
        repeated = batch[rows.repeat_interleave(ROLLOUTS)]
        value[rows, i] = is_right(repeated, output).view(-1, ROLLOUTS).mean(dim=1)
    return value


def losses(model, n_questions, seed, step, kinds, mean):
    """The losses of one batch under each kind of baseline.

    Returns [loss], the mean reward, and the mean entropy of a chain. mean: the running mean of
    rewards that 'ema' subtracts.
    """
    # sample a group of chains for each question
    questions = sample_batch(TASK, n_questions, seed, step)
    P = questions.prompt_len
    L = questions.tokens.size(1) - P
    batch = questions[torch.arange(n_questions).repeat_interleave(GROUP_SIZE)]
    tokens = model.generate(questions.tokens[:, :P], L, 1.0, samples=GROUP_SIZE)

    # rewards, and the mean of the group's other chains
    reward = is_right(batch, tokens)[:, None]                               # (B, 1)
    total = reward.view(n_questions, GROUP_SIZE).sum(dim=1)
    total = total.repeat_interleave(GROUP_SIZE)[:, None]                    # (B, 1)
    others = (total - reward) / (GROUP_SIZE - 1)

    advantage = {'none': reward, 'ema': reward - mean, 'loo': reward - others}
    if set(kinds) & set(COSTLY):
        value = prefix_values(model, batch, tokens, reward, others)         # (B, L + 1)
        advantage['prefix'] = value.diff(dim=1)
        advantage['state'] = reward - value[:, :-1]

    # REINFORCE: - advantage * log pi, summed over a chain
    logits = model(tokens[:, :-1], batch.loss_mask[:, 1:], shared=(P, GROUP_SIZE))
    log_p = logits.log_softmax(dim=-1)                                      # (N, V)
    log_p_sampled = log_p.gather(1, tokens[batch.loss_mask][:, None])[:, 0]
    in_chain = batch.loss_mask[:, P:]
    results = []
    for kind in kinds:
        weight = advantage[kind].expand(-1, L)[in_chain]
        results.append(-(weight * log_p_sampled).sum() / len(tokens))
    entropy = -(log_p.exp() * log_p).sum() / len(tokens)
    return results, reward.mean().item(), entropy


def sample_gradients(model, seed, mean):
    """64 estimates of the gradient for each kind of baseline: {kind: (64, parameters)}."""
    estimates = {kind: [] for kind in KINDS}
    parameters = list(model.parameters())
    for i in range(64):
        for kinds, n_questions in ((CHEAP, 224), (COSTLY, 32)):
            kind_losses, _, _ = losses(model, n_questions, seed, 10**6 + i, kinds, mean)
            for kind, loss in zip(kinds, kind_losses, strict=True):
                gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
                estimates[kind].append(torch.cat([g.flatten() for g in gradient]))
    return {kind: torch.stack(gradients) for kind, gradients in estimates.items()}


def print_noise(model, seed, step, mean):
    """One line: noise / signal of each kind, and its noise relative to that of 'none'."""
    gradients = sample_gradients(model, seed, mean)

    # all kinds estimate the same gradient, so the signal comes from all of them
    first_half = torch.cat([g[0::2] for g in gradients.values()]).mean(dim=0)
    second_half = torch.cat([g[1::2] for g in gradients.values()]).mean(dim=0)
    signal = float(first_half @ second_half)

    noise = {kind: float(g.var(dim=0).sum()) for kind, g in gradients.items()}
    words = []
    for kind in KINDS:
        words.append(f'{kind} {noise[kind] / signal:8.2f} ({noise[kind] / noise["none"]:.2f})')
    print(f'seed {seed} step {step:4} mean reward {mean:.2f}   ' + '   '.join(words), flush=True)


def train(seed):
    """Train with the leave-one-out baseline. Print a line at each stage."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(len(TASK.vocab), TASK.block_size))
    optimizer = model.configure_optimizer(1e-3, 0.01)
    stages = list(STAGES)
    mean = 0.0
    for step in range(4000):
        (loss,), reward, entropy = losses(model, 128, seed, step, ['loo'], 0.0)
        mean = 0.95 * mean + 0.05 * reward if step else reward
        if mean >= stages[0]:
            print_noise(model, seed, step, mean)
            del stages[0]
            if not stages:
                return

        for group in optimizer.param_groups:
            group['lr'] = 1e-3 * min(1, (step + 1) / 51)
        (loss - 0.01 * entropy).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    raise RuntimeError(f'seed {seed} never reached a mean reward of {stages[0]}')


def main():
    print('noise / signal of one gradient estimate of 1,792 chains (lower is better), and the '
          'noise relative to none')
    for seed in (1337, 1338, 1339):
        train(seed)


if __name__ == '__main__':
    main()
