"""The models of the tasks in PyTorch, for the contestants that train with it.

Called with a batch, a model gives the mean loss over it.
"""

from collections.abc import Callable, Sequence
import functools

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contestants import noise

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
if DEVICE == 'cuda':
  # Products in TF32 where there is such a thing, as JAX has them by default.
  torch.set_float32_matmul_precision('high')


class Conv(nn.Module):
  """The convolutional EMNIST model of Reddi et al. (2021), 62 classes.

  Of https://arxiv.org/abs/2003.00295, as FedJAX has it: 1,206,590 parameters.
  """

  def __init__(self):
    super().__init__()
    self.layers = nn.Sequential(
      nn.Conv2d(1, 32, 3),
      nn.ReLU(),
      nn.Conv2d(32, 64, 3),
      nn.ReLU(),
      nn.MaxPool2d(2),
      nn.Dropout(0.25),
      nn.Flatten(),
      nn.Linear(12 * 12 * 64, 128),
      nn.ReLU(),
      nn.Dropout(0.5),
      nn.Linear(128, noise.CLASSES),
    )

  def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of `[B, 784]` images and `[B]` labels."""
    return F.cross_entropy(self.layers(images.view(-1, 1, 28, 28)), labels)


class Vae(nn.Module):
  """A VAE of dense layers, Bernoulli pixels: 415,024 parameters."""

  def __init__(self):
    super().__init__()
    self.encoder = nn.Sequential(
      nn.Linear(noise.PIXELS, 256), nn.ReLU(), nn.Linear(256, 2 * 16)
    )
    self.decoder = nn.Sequential(
      nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, noise.PIXELS)
    )

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Mean negative ELBO of `[B, 784]` images, one sample of each code."""
    mean, logvar = self.encoder(images).chunk(2, dim=1)
    code = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    errors = F.binary_cross_entropy_with_logits(
      self.decoder(code), images, reduction='sum'
    )
    divergence = 0.5 * (logvar.exp() + mean.square() - 1 - logvar).sum()
    return (errors + divergence) / len(images)


class ConvVae(Vae):
  """A VAE of convolutions, Bernoulli pixels: 220,385 parameters."""

  def __init__(self):
    nn.Module.__init__(self)
    self.encoder = nn.Sequential(
      nn.Conv2d(1, 32, 4, 2, 1),
      nn.ReLU(),
      nn.Conv2d(32, 64, 4, 2, 1),
      nn.ReLU(),
      nn.Flatten(),
      nn.Linear(7 * 7 * 64, 2 * 16),
    )
    self.decoder = nn.Sequential(
      nn.Linear(16, 7 * 7 * 64),
      nn.ReLU(),
      nn.Unflatten(1, (64, 7, 7)),
      nn.ConvTranspose2d(64, 32, 4, 2, 1),
      nn.ReLU(),
      nn.ConvTranspose2d(32, 1, 4, 2, 1),
    )

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Mean negative ELBO of `[B, 784]` images."""
    return super().forward(images.view(-1, 1, 28, 28))


def model(name: str) -> nn.Module:
  """A new model of the task of that name."""
  models = {'emnist_conv': Conv, 'mlp_vae': Vae, 'conv_vae': ConvVae}
  return models[name]().to(DEVICE)


def optimizer(
  name: str, *, fused: bool = True
) -> Callable[..., torch.optim.Optimizer]:
  """What makes a client's optimizer of its parameters.

  The fused Adam is the fastest that PyTorch has for these sizes; without
  `fused` it is the one that `torch.optim.Adam(parameters)` gives.
  """
  if name == 'emnist_conv':
    return functools.partial(torch.optim.SGD, lr=10**-1.5)
  return functools.partial(torch.optim.Adam, lr=1e-3, fused=fused or None)


def data(task) -> tuple[torch.Tensor, ...]:
  """What a model takes, of all clients: arrays of a leading axis of clients."""
  images = torch.from_numpy(noise.images(task)).to(DEVICE)
  if task.name != 'emnist_conv':
    return (images,)
  return images, torch.from_numpy(noise.labels(task)).to(DEVICE)


def finish() -> None:
  """Waits until the device has done what it was sent."""
  if DEVICE == 'cuda':
    torch.cuda.synchronize()


def train(
  name: str,
  model: nn.Module,
  data: Sequence[torch.Tensor],
  batch: int,
  *,
  fused: bool = True,
) -> list[torch.Tensor]:
  """An epoch of a client, with a new optimizer: a step for each batch.

  Args:
    name: of the task.
    model: trained in place.
    data: what the client has, as the model takes it.
    batch: examples of a step.
    fused: whether Adam is the fused one.

  Returns:
    The loss of each step.
  """
  descent, losses = optimizer(name, fused=fused)(model.parameters()), []
  for part in zip(*(one.split(batch) for one in data), strict=True):
    descent.zero_grad()
    loss = model(*part)
    loss.backward()
    descent.step()
    losses.append(loss.detach())
  return losses
