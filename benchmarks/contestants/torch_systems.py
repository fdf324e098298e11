"""FedVAE and FissionVAE in PyTorch: the models and rounds of `system`.

As published codes have them, one client after the other: each holds a copy of
the model and an Adam that lasts. In a round it is given the server's weights
and makes an epoch; the server takes the mean of the state dicts, of encoders
over all clients and of decoders over those of a group.
"""

from collections.abc import Sequence
import copy
import math

import numpy as np
import torch
from torch import nn

from benchmarks.contestants import torch_models

_STDDEV = 0.2  # of a pixel given its mean, the library's default


class Vae(nn.Module):
  """A VAE of Gaussian pixels whose prior is N(prior_mean, I)."""

  def __init__(
    self, encoder: nn.Module, decoder: nn.Module, prior_mean: torch.Tensor
  ):
    super().__init__()
    self.encoder, self.decoder = encoder, decoder
    self.register_buffer('prior_mean', prior_mean, persistent=False)

  def forward(
    self, images: torch.Tensor, noise: torch.Tensor | None = None
  ) -> torch.Tensor:
    """Mean negative ELBO of `[B, C, H, W]` images, one sample of each code.

    Args:
      images: in [0, 1].
      noise: `[B, Z]` standard normal; drawn if not given.
    """
    mean, logvar = self.encoder(images).chunk(2, dim=1)
    logvar = logvar.clamp(-10, 10)
    if noise is None:
      noise = torch.randn_like(mean)
    code = mean + torch.exp(0.5 * logvar) * noise
    errors = (torch.sigmoid(self.decoder(code)) - images).square().sum()
    constant = images.numel() * math.log(_STDDEV * math.sqrt(2 * math.pi))
    distance = (mean - self.prior_mean).square()
    divergence = 0.5 * (logvar.exp() + distance - 1 - logvar).sum()
    return (errors / (2 * _STDDEV**2) + constant + divergence) / len(images)


def fedvae_paper() -> list[Vae]:
  """The published FedVAE, 11,087,731 parameters: one group.

  Layers as in https://github.com/hugo-dugdale/federated_VAE; the likelihood is
  the library's default, as in `system`.
  """
  encoder = nn.Sequential(
    nn.Conv2d(1, 16, 3),
    nn.BatchNorm2d(16),
    nn.LeakyReLU(),
    nn.Conv2d(16, 32, 3),
    nn.BatchNorm2d(32),
    nn.LeakyReLU(),
    nn.Flatten(),
    nn.Linear(24 * 24 * 32, 2 * 200),
  )
  decoder = nn.Sequential(
    nn.Linear(200, 24 * 24 * 32),
    nn.Unflatten(1, (32, 24, 24)),
    nn.ConvTranspose2d(32, 16, 3),
    nn.BatchNorm2d(16),
    nn.LeakyReLU(),
    nn.ConvTranspose2d(16, 1, 3),
    nn.BatchNorm2d(1),
  )
  return [Vae(encoder, decoder, torch.zeros(200))]


def fissionvae() -> list[Vae]:
  """FissionVAE+L+D: a model for each of two groups, alike at the start.

  The means of their priors are 4 apart, each with eight latents of its own.
  """
  encoder = nn.Sequential(
    nn.Conv2d(3, 32, 4, 2, 1),
    _group_norm(32),
    nn.SiLU(),
    nn.Conv2d(32, 64, 4, 2, 1),
    _group_norm(64),
    nn.SiLU(),
    nn.Flatten(),
    nn.Linear(8 * 8 * 64, 256),
    nn.SiLU(),
    nn.Linear(256, 2 * 16),
  )
  decoder = nn.Sequential(
    nn.Linear(16, 256),
    nn.SiLU(),
    nn.Linear(256, 8 * 8 * 64),
    nn.Unflatten(1, (64, 8, 8)),
    _group_norm(64),
    nn.SiLU(),
    nn.ConvTranspose2d(64, 32, 4, 2, 1),
    _group_norm(32),
    nn.SiLU(),
    nn.ConvTranspose2d(32, 3, 4, 2, 1),
  )
  means = torch.eye(2).repeat_interleave(8, dim=1)
  return [copy.deepcopy(Vae(encoder, decoder, mean)) for mean in means]


def _group_norm(channels: int) -> nn.GroupNorm:
  return nn.GroupNorm(8, channels, eps=1e-6)


MODELS = {
  'fedvae_paper': (fedvae_paper, (1, 28, 28)),
  'fissionvae': (fissionvae, (3, 32, 32)),
}
"""What builds the groups' models, and the shape of an image, by task."""


class Rounds:
  """Rounds one after the other, each a call."""

  def __init__(self, task):
    torch.manual_seed(task.seed)
    build, shape = MODELS[task.name]
    self._batch = task.batch
    self._server = [model.to(torch_models.DEVICE) for model in build()]
    self._groups = [row % len(self._server) for row in range(task.clients)]
    self._clients = [copy.deepcopy(self._server[g]) for g in self._groups]
    self._descents = [
      torch.optim.Adam(client.parameters(), lr=2e-3) for client in self._clients
    ]
    sizes = (task.clients, task.steps * task.batch, *shape)
    images = np.random.default_rng(task.seed).random(sizes, np.float32)
    self._images = torch.from_numpy(images).to(torch_models.DEVICE)

  def __call__(self) -> None:
    """Trains all clients and takes the means."""
    for row, client in enumerate(self._clients):
      client.load_state_dict(self._server[self._groups[row]].state_dict())
      for images in self._images[row].split(self._batch):
        self._descents[row].zero_grad()
        client(images).backward()
        self._descents[row].step()
    encoder = _mean([client.encoder for client in self._clients])
    for group, model in enumerate(self._server):
      model.encoder.load_state_dict(encoder)
      model.decoder.load_state_dict(
        _mean(
          [
            client.decoder
            for client, own in zip(self._clients, self._groups, strict=True)
            if own == group
          ]
        )
      )
    torch_models.finish()


def _mean(modules: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
  """Of state dicts; BatchNorm's counters of batches are whole numbers."""
  states = [module.state_dict() for module in modules]
  return {
    name: torch.stack([state[name] for state in states]).float().mean(dim=0)
    for name in states[0]
  }
