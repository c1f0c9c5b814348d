"""Which baseline gives the least noisy gradient for the same number of sampled chains? At three stages of one default training run.

    python results/gradient_variance.py | tee results/gradient_variance.txt

Each estimate of the gradient (without the entropy bonus) spends 1,792 chains in expectation: 224 questions x 8 chains or, where each of a
chain's k - 1 prefixes costs 4 fresh rollouts, 7 chains for one, 32 questions x 8. Noise is the trace of the covariance over 64 estimates,
signal the squared norm of their mean (from two halves, so that noise does not count as signal; at the first stage it is lost in the
noise and may come out negative). 'prefix' is VinePPO's step advantage; 'state' FactorExe's baseline, from the same rollouts: the reward
minus the value of the prefix before the token.
"""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent))
from data import Cycle, sample_batch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402

G, R, TASK = 8, 4, Cycle(nodes=10, hops=(1, 2, 3, 4))
STAGES, KINDS = (0.1, 0.3, 0.7), ('none', 'ema', 'loo', 'prefix', 'state')

def right(batch, tokens):
    """The reward of each row: is its token at the answer's place the answer?"""
    return (tokens.gather(1, batch.answer) == batch.tokens.gather(1, batch.answer))[:, 0].float()

def surrogates(model, questions, seed, step, kinds, mean):
    """One batch's losses, one for each kind, its mean reward, and the entropy of its chains. Written apart from train_rl.py, not taken from it."""
    asked = sample_batch(TASK, questions, seed, step)
    S, L, batch = asked.prompt_len, asked.tokens.size(1) - asked.prompt_len, asked[torch.arange(questions).repeat_interleave(G)]
    tokens = model.generate(asked.tokens[:, :S], L, 1.0, samples=G)
    reward = right(batch, tokens)[:, None]  # (B, 1)
    total = reward.view(questions, G).sum(1).repeat_interleave(G)[:, None]
    others = (total - reward) / (G - 1)
    value = reward.repeat(1, L + 1)  # of the first i tokens; from the answer on it is known
    value[:, :1] = others
    for i in range(1, L) if {'prefix', 'state'} & set(kinds) else ():
        rows = (batch.hops > i).nonzero()[:, 0]
        out = model.generate(tokens[rows, :S + i], L - i, 1.0, samples=R)
        value[rows, i] = right(batch[rows.repeat_interleave(R)], out).view(-1, R).mean(1)
    A = {'none': reward, 'ema': reward - mean, 'loo': reward - others, 'prefix': value.diff(dim=1), 'state': reward - value[:, :-1]}
    log_p = model(tokens[:, :-1], batch.loss_mask[:, 1:], shared=(S, G)).log_softmax(-1)
    taken = log_p.gather(1, tokens[batch.loss_mask][:, None])[:, 0]
    losses = [-(A[kind].expand(-1, L)[batch.loss_mask[:, S:]] * taken).sum() / len(tokens) for kind in kinds]
    return losses, reward.mean().item(), -(log_p.exp() * log_p).sum() / len(tokens)

def gradients(model, seed, mean):
    """{kind: (64, parameters)}"""
    found, parameters = {kind: [] for kind in KINDS}, list(model.parameters())
    for i in range(64):
        for kinds, questions in ((KINDS[:3], 224), (KINDS[3:], 32)):
            losses, _, _ = surrogates(model, questions, seed, 10**6 + i, kinds, mean)
            for kind, loss in zip(kinds, losses, strict=True):
                grad = torch.autograd.grad(loss, parameters, retain_graph=True)
                found[kind].append(torch.cat([g.flatten() for g in grad]))
    return {kind: torch.stack(g) for kind, g in found.items()}

print('noise / signal of one gradient estimate of 1,792 chains (lower is better), and the noise relative to none')
for seed in (1337, 1338, 1339):
    torch.manual_seed(seed)
    model, mean, stages = GPT(GPTConfig(len(TASK.vocab), TASK.block_size)), 0.0, list(STAGES)
    optimizer = model.configure_optimizer(1e-3, 0.01)
    for step in range(4000):
        (loss,), reward, entropy = surrogates(model, 128, seed, step, ['loo'], 0.0)
        mean = 0.95 * mean + 0.05 * reward if step else reward
        if mean >= stages[0]:
            g = gradients(model, seed, mean)
            # the estimators share their mean; its squared norm from halves of all, so that noise does not count as signal
            halves = [torch.cat([x[i::2] for x in g.values()]).mean(0) for i in (0, 1)]
            signal, noise = float(halves[0] @ halves[1]), {kind: float(x.var(0).sum()) for kind, x in g.items()}
            print(f'seed {seed} step {step:4} mean reward {mean:.2f}   ' + '   '.join(
                f'{kind} {noise[kind] / signal:8.2f} ({noise[kind] / noise["none"]:.2f})' for kind in KINDS), flush=True)
            del stages[0]
            if not stages:
                break
        for group in optimizer.param_groups:
            group['lr'] = 1e-3 * min(1, (step + 1) / 51)
        (loss - 0.01 * entropy).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert not stages, f'seed {seed} never reached a mean reward of {stages[0]}'
