"""Turns images into embeddings with a frozen encoder.

The encoder must not know the images that are to be kept private: it is trained
here on another, public data set, or it is a public network of photographs, or
a network in a file. DINOv2 becomes such a file with torch, once, where its
weights can be downloaded:

    class Dinov2(torch.nn.Module):

      def __init__(self):
        super().__init__()
        self.net = torch.hub.load('facebookresearch/dinov2', 'dinov2_vits14')

      def forward(self, images):  # uint8 [n, 3, H, W]
        images = torch.nn.functional.interpolate(
          images.float() / 255, (224, 224), mode='bicubic', antialias=True
        )
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        stddev = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        return self.net((images - mean) / stddev)

    example = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    torch.jit.trace(Dinov2().eval(), example).save('dinov2_vits14.pt')

The recipe is tested with a small network in the place of DINOv2.
"""

import dataclasses
import hashlib
import os
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from fedjax_gen import fields, files
from fedjax_gen.data import examples, images
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.embeddings import projections
from fedjax_gen.evaluation.networks import features, imagenet_networks
from fedjax_gen.running.storage import disk as running_files
from fedjax_gen.studies import options
from fedjax_gen.studies.command import program

_KINDS = {'.onnx': 'onnx', '.pt': 'torchscript', '.pth': 'torchscript'}
_CHUNK, _SILENCE = 1000, 10.0  # images from one look at the clock, seconds


@dataclasses.dataclass(frozen=True)
class EmbedConfig(fields.Configuration):
  """The encoder and the embeddings."""

  encoder: str = fields.option(
    'fashion_mnist',
    'Public images, as for --data, to train the encoder on, a small '
    'classifier (half a minute, once). They must not be the data themselves. '
    'Your images are converted to their size and channels. Or '
    'efficientnet_lite0, a network trained on ImageNet (1,280 features; '
    'extra efficientnet).',
    placeholder='NAME_OR_PATH',
  )
  encoder_size: int = fields.option(
    imagenet_networks.IMAGE_SIZE,
    'Height and width to which efficientnet_lite0 resizes images. It '
    'was trained on 224; smaller is faster.',
  )
  encoder_file: str = fields.option(
    '',
    'Instead of --encoder, a network in a file, TorchScript (.pt, '
    '.pth) or ONNX (.onnx), from RGB images [n, 3, H, W] of 0 to 255 to '
    '[n, F]; it resizes and normalises itself. For DINOv2 wrap '
    "torch.hub.load('facebookresearch/dinov2', 'dinov2_vits14') in a module "
    'that does so and save it with torch.jit.trace; the ten lines stand at '
    'the top of fedjax_gen/studies/tools/embed_images.py.',
    placeholder='FILE',
  )
  project: int = fields.non_negative_int(
    0,
    'Project embeddings on this many public directions; 0 keeps all '
    'features. With fewer, privacy needs less noise.',
  )
  project_by: str = fields.option(
    'classifier',
    'Which directions: the principal ones of the weights that classify the '
    'encoder’s own public classes, or random ones, always the same. A network '
    'in a file has only random ones.',
    choices=('classifier', 'random'),
  )
  num: int = fields.non_negative_int(
    0,
    'At most this many training images, drawn at random, and the '
    'same share of the test images; 0 for all.',
  )
  seed: int = fields.non_negative_int(
    0,
    'Seed of that draw, and of the split if the data have no test '
    'split; the encoder does not depend on it.',
  )
  out: str = fields.option(
    'embeddings.npz',
    'npz file, which every program accepts as --data.',
    placeholder='FILE',
  )

  def __post_init__(self):
    super().__post_init__()
    imagenet_networks.check_image_size(encoder_size=self.encoder_size)
    path = pathlib.Path(self.out)
    if path.suffix.lower() != '.npz' or path.is_dir():
      raise InputError(
        f'Expected out to be a file that ends in .npz, got out={self.out!r}.'
      )
    suffix = pathlib.Path(self.encoder_file).suffix.lower()
    if self.encoder_file and suffix not in _KINDS:
      raise InputError(
        f'Expected encoder_file to end in one of {", ".join(_KINDS)}, got '
        f'encoder_file={self.encoder_file!r}.'
      )
    if self.encoder_size != imagenet_networks.IMAGE_SIZE and (
      self.encoder_file or self.encoder not in imagenet_networks.LOADERS
    ):
      raise InputError(
        'Expected encoder_size only with encoder='
        f'{" or ".join(imagenet_networks.LOADERS)}, got '
        f'encoder_size={self.encoder_size} with another encoder.'
      )
    if self.encoder_file and self.project and self.project_by != 'random':
      raise InputError(
        'Expected project_by=random with encoder_file, for nothing is known of '
        f'the classes of a network in a file; got project_by={self.project_by}.'
      )


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  data: options.DataConfig = options.DataConfig(data='mnist')
  embed: EmbedConfig = EmbedConfig()


def main(asked: Configs) -> None:
  """Embeds and writes; see `program.run`."""
  data, config = asked
  if not config.encoder_file and config.encoder == data.data:
    raise InputError(
      'Expected encoder to be other images than data, which it must not know; '
      f'got encoder={config.encoder!r} and data={data.data!r}.'
    )
  source = options.load_source(data, seed=config.seed)
  _check_images('data', data.data, source)
  if config.encoder_file:
    kind = _KINDS[pathlib.Path(config.encoder_file).suffix.lower()]
    encoder = features.file_extractor(f'{kind}:{config.encoder_file}')
    about = 'a network in a file'
  elif config.encoder in imagenet_networks.LOADERS:
    _check_no_imagenet(source)
    encoder = features.imagenet_extractor(
      config.encoder, image_size=config.encoder_size
    )
    about = 'a public network trained on ImageNet'
  else:
    public = options.load_source(
      # How many are asked for is said of the data, not of the encoder's.
      dataclasses.replace(
        data,
        data=config.encoder,
        image_size=0,
        num_examples=0,
        num_test_examples=0,
      ),
      seed=0,
    )
    _check_images('encoder', config.encoder, public)
    source = _fitted(source, public.input_shape)
    _check_foreign(source, public, config.encoder)
    encoder, about = _trained(public)
  projection = _projection(encoder, source, config)
  train, test = _drawn(source, config)
  told = _Progress(len(train.labels) + len(test.labels))
  arrays = {
    **_arrays('train', train, source, encoder, projection, told),
    **_arrays('test', test, source, encoder, projection, told),
    'classes': np.asarray(source.class_names),
    'encoder': np.asarray(encoder.description),
  }
  if projection is not None:
    arrays['projection'] = projection.matrix
    arrays['projected_by'] = np.asarray(projection.description)
    about = f'{about}; {projection.description}'
  path = pathlib.Path(config.out)
  try:
    with running_files.full_disk_named(path):
      files.write_arrays(path, arrays)
  except OSError as error:
    raise InputError(
      f'Cannot write out={config.out!r}: {error.strerror}.'
    ) from error
  num_train, num_features = arrays['x_train'].shape
  print(
    f'{num_train} + {len(arrays["x_test"])} embeddings of {source.name}, '
    f'{num_features} features by {encoder.name} ({about}): {path}'
  )


def _check_images(what: str, name: str, source: DataSource) -> None:
  if not source.is_image:
    raise InputError(
      f'Expected {what} to be images, got the features of {what}={name!r}.'
    )


def _fitted(source: DataSource, shape: tuple[int, ...]) -> DataSource:
  """Brings images to a shape (H, W, C), grey by luminance."""
  height, width, channels = shape
  if source.input_shape == shape:
    return source
  if height != width:
    raise InputError(
      'Expected an encoder of square images, as data are of another shape, '
      f'{list(source.input_shape)}; got one of {list(shape)}.'
    )

  def fitted(part: Examples) -> Examples:
    inputs = np.empty((len(part.inputs), *shape), np.uint8)
    for row, image in enumerate(part.inputs):
      picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
      inputs[row] = images.to_array(picture, (width, height), channels)
    return part._replace(inputs=inputs)

  return dataclasses.replace(
    source, train=fitted(source.train), test=fitted(source.test)
  )


def _check_foreign(source: DataSource, public: DataSource, name: str) -> None:
  """Refuses data with images of the encoder's training set."""

  def digests(inputs: np.ndarray) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in inputs]

  known = set(digests(public.train.inputs))
  shared = sum(
    digest in known
    for part in (source.train, source.test)
    for digest in digests(part.inputs)
  )
  if shared:
    raise InputError(
      f'Expected encoder to be other images than data, which it must not '
      f'know; {shared} images of {source.name} are in the training set of '
      f'encoder={name!r}.'
    )


def _trained(public: DataSource) -> tuple[features.FeatureExtractor, str]:
  """The encoder, and its accuracy in words."""
  train, test = public.train, public.test
  name = os.path.basename(public.name.rstrip('/'))
  encoder = features.classifier_extractor(
    name,
    train.inputs,
    train.labels,
    test.inputs,
    test.labels,
    public.num_classes,
  )
  assert encoder.probabilities is not None  # a classifier has them
  found = encoder.probabilities(test.inputs).argmax(axis=1)
  return encoder, (
    f'accuracy {np.mean(found == test.labels):.3f} on the '
    f'{len(test.labels)} test images of {name}'
  )


def _drawn(
  source: DataSource, config: EmbedConfig
) -> tuple[Examples, Examples]:
  """The images that are asked for, in the order of the source."""
  num_train = len(source.train.labels)
  if not 0 < config.num < num_train:
    return source.train, source.test
  rng = np.random.default_rng(config.seed)
  num_test = -(-len(source.test.labels) * config.num // num_train)

  def drawn(part: Examples, num: int) -> Examples:
    rows = rng.choice(len(part.labels), num, replace=False)
    return examples.take(part, np.sort(rows))

  return drawn(source.train, config.num), drawn(source.test, num_test)


class _Projection(NamedTuple):
  """Fewer features, and how they were made."""

  matrix: np.ndarray  # [F, K]
  description: str


def _projection(
  encoder: features.FeatureExtractor, source: DataSource, config: EmbedConfig
) -> _Projection | None:
  """The projection that is asked for, and None for none.

  Raises:
    InputError: the encoder has fewer directions.
  """
  if not config.project:
    return None
  if encoder.head is not None:
    num_features = len(encoder.head)
  else:  # a network in a file tells by an image
    num_features = encoder.features(source.train.inputs[:1]).shape[1]
  if config.project_by == 'random':
    matrix = projections.random_directions(num_features, config.project)
    which = f'random ones, seed {projections.SEED}'
  else:
    assert encoder.head is not None  # a network in a file was refused
    matrix = projections.classifier_directions(encoder.head, config.project)
    which = 'the principal ones of its classifier'
  return _Projection(
    matrix,
    f'projected from {num_features} features on {config.project} directions, '
    f'{which}',
  )


def _check_no_imagenet(source: DataSource) -> None:
  """Refuses data that are ImageNet's by their name; nothing else tells."""
  if 'imagenet' in os.path.basename(source.name.rstrip('/')).lower():
    raise InputError(
      'Expected encoder to be other than a network trained on ImageNet with '
      f'images of ImageNet, which it knows; got data={source.name!r}.'
    )


class _Progress:
  """Tells how far a long work is: a line when a while was silent."""

  def __init__(self, num: int):
    self._num, self._done = num, 0
    self._start = self._told = time.monotonic()

  def add(self, num: int) -> None:
    """Notes that so many images more are done."""
    self._done += num
    now = time.monotonic()
    if now - self._told < _SILENCE or self._done == self._num:
      return
    self._told = now
    left = (now - self._start) * (self._num - self._done) / self._done
    print(
      f'{self._done} of {self._num} images, {left:.0f} s left',
      file=sys.stderr,
      flush=True,
    )


def _embedded(
  inputs: np.ndarray,
  encoder: features.FeatureExtractor,
  projection: _Projection | None,
  told: _Progress,
) -> np.ndarray:
  """`[n, F]` float32, or `[n, K]`."""
  parts = []
  for start in range(0, len(inputs), _CHUNK):
    part = encoder.features(inputs[start : start + _CHUNK])
    parts.append(part if projection is None else part @ projection.matrix)
    told.add(len(part))
  return np.concatenate(parts).astype(np.float32)


def _arrays(
  split: str,
  part: Examples,
  source: DataSource,
  encoder: features.FeatureExtractor,
  projection: _Projection | None,
  told: _Progress,
) -> dict[str, np.ndarray]:
  """One split under the names by which `sources.load` reads it."""
  arrays = {
    f'x_{split}': _embedded(part.inputs, encoder, projection, told),
    f'y_{split}': part.labels,
  }
  if part.users is not None:
    arrays[f'users_{split}'] = _named(part.users, source.user_names)
  if part.groups is not None:
    arrays[f'groups_{split}'] = _named(part.groups, source.group_names)
  return arrays


def _named(ids: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
  """Ids by their names, as numbers if all names are: they sort as such."""
  are_numbers = all(name.isdecimal() for name in names)
  values = [int(name) for name in names] if are_numbers else list(names)
  return np.asarray(values)[ids]


PROGRAM = program.Program(
  name='embed',
  sentence='Turns images into embeddings with a frozen encoder.',
  examples=(
    ('--data=mnist', 'MNIST as an encoder of Fashion-MNIST sees it.'),
    ('--data=scans.npz --out=scans_embedded.npz', 'Images of your own.'),
    (
      '--data=cifar10 --encoder=efficientnet_lite0 --project=128',
      'Photographs, as a public network of photographs sees them.',
    ),
    (
      '--data=groups:scans --image_size=224 --encoder_file=dinov2_vits14.pt',
      'With DINOv2, exported as --encoder_file says.',
    ),
  ),
  configs=Configs(),
  main=main,
)
