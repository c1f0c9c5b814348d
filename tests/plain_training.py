"""Training written out number by number, and spies that record what a run saves and how."""

import math

import torch

import common


class PlainAdamW:
    """AdamW (Loshchilov & Hutter 2017, algorithm 2), on gradients that are clipped to a norm.

    Matrices decay, vectors do not.
    """

    def __init__(self, model, decay, clip=math.inf, betas=(0.9, 0.95)):
        self.parameters = list(model.parameters())
        self.decay = decay
        self.clip = clip
        self.betas = betas
        self.mean = [torch.zeros_like(p) for p in self.parameters]      # of the gradients
        self.square = [torch.zeros_like(p) for p in self.parameters]    # of their squares
        self.n_steps = 0

    @torch.no_grad()
    def step(self, loss, lr):
        """One step down the gradient of the loss. Returns the norm of the gradient, unclipped."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss, self.parameters)
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
        self.n_steps += 1
        for i, p in enumerate(self.parameters):
            g = gradients[i] * min(1, self.clip / max(norm, 1e-6))
            self.mean[i] = self.betas[0] * self.mean[i] + (1 - self.betas[0]) * g
            self.square[i] = self.betas[1] * self.square[i] + (1 - self.betas[1]) * g**2
            mean = self.mean[i] / (1 - self.betas[0] ** self.n_steps)
            square = self.square[i] / (1 - self.betas[1] ** self.n_steps)
            if p.dim() == 2:
                p *= 1 - lr * self.decay
            p -= lr * mean / (square.sqrt() + 1e-8)
        return norm


def warmup_and_cosine(step, peak, warmup, steps):
    """A line from peak / (warmup + 1) to the peak, then half a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


class Saved:
    """Every checkpoint that is saved: its name, its step, and copies of the weights and of the
    optimizer's moments at that moment."""

    def __init__(self, monkeypatch):
        self.all = []
        save = common.Run.save

        def spy(run, name, model, optimizer, step, *rest, **options):
            moments = [optimizer.state[p] for p in model.parameters()]
            self.all.append((name, step, [p.detach().clone() for p in model.parameters()],
                             [state['exp_avg'].clone() for state in moments],
                             [state['exp_avg_sq'].clone() for state in moments]))
            save(run, name, model, optimizer, step, *rest, **options)
            # the file holds what was handed over, and says of which step it is
            written, state = common.load_checkpoint(run.out_dir / name)
            assert state['step'] == step
            assert are_equal(written.parameters(), model.parameters())
        monkeypatch.setattr(common.Run, 'save', spy)


def are_equal(a, b, atol=0.0):
    """Are two sequences of tensors equal, up to a difference of atol?"""
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))


def is_as_written_out(checkpoint, model, optimizer):
    """Is one of Saved.all what a PlainAdamW has made of the model? Up to rounding."""
    _, _, weights, mean, square = checkpoint
    return (are_equal(weights, model.parameters(), 1e-5)
            and are_equal(mean, optimizer.mean, 1e-6)
            and are_equal(square, optimizer.square, 1e-6))


def watch_modes(monkeypatch, model_class):
    """Collects (gradients are on, the model is in training mode) of every forward pass. Dropout, if
    somebody adds it, must act exactly where gradients are taken."""
    modes = set()
    forward = model_class.forward

    def spy(model, *args, **options):
        modes.add((torch.is_grad_enabled(), model.training))
        return forward(model, *args, **options)
    monkeypatch.setattr(model_class, 'forward', spy)
    return modes
