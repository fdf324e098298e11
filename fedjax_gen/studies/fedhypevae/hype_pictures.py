"""The pictures of a comparison of generators."""

from collections.abc import Mapping
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.evaluation import heads
from fedjax_gen.evaluation.drawing import client_pictures, embedding_pictures
from fedjax_gen.evaluation.drawing.embedding_pictures import LabelledEmbeddings
from fedjax_gen.evaluation.drawing.gallery import Drawn
from fedjax_gen.models.hyper import meta_code
from fedjax_gen.studies.fedhypevae.hype_clients import Clients
from fedjax_gen.studies.fedhypevae.hype_methods import HypeMethod
from fedjax_gen.studies.fedhypevae.hype_synthesis import Synthetic
from fedjax_gen.studies.shown import Shown

_OURS = 'FedHypeVAE'
_WAY_STEPS = 7
_WAY_SAMPLES = 256


def draw(
  shown: Shown,
  clients: Clients,
  synthetic: Mapping[str, Synthetic],
  evaluations: Mapping[str, heads.Evaluation],
  methods: Mapping[str, HypeMethod],
  codes: np.ndarray | None,
  *,
  seed: int,
) -> list[Drawn]:
  """Draws what there is to be seen of the methods that ran.

  Args:
    shown: what to draw, and the folder for all pictures.
    clients: who holds what.
    synthetic: by generator what it shares.
    evaluations: by method what classifiers reach.
    methods: what was trained, by name.
    codes: `[N, V]` of FedHypeVAE's clients, if it ran and has codes.
    seed: of draws and of the choice of points.

  Returns:
    the pictures: real and synthetic embeddings, what each client gets of the
    first method, and of FedHypeVAE, if it has codes, these and the way from
    one of them to another. Where not everything is shown: generated
    embeddings and the protected codes alone.
  """
  folder = shown.kept / 'samples'
  folder.mkdir(parents=True, exist_ok=True)
  domains = _domains(clients) if shown.everything else None
  subject = next(iter(evaluations))
  synthetic = {name: synthetic[name] for name in shown.names(synthetic)}
  drawn = []
  if synthetic and len(clients.rows.test.order) > 1:
    path = folder / 'embeddings.png'
    drawn.append(_draw_embeddings(clients, synthetic, path, seed, domains))
  if domains is not None:
    drawn.append(
      _draw_clients(
        evaluations[subject], subject, domains, folder / 'clients.png'
      )
    )
  made, method = synthetic.get(_OURS), methods.get(_OURS)
  if made is None or method is None or codes is None:
    return drawn
  if domains is None and not _are_codes_protected(method):
    return drawn
  ends = _furthest(codes, clients.partition.sizes)
  if ends is None:
    return drawn
  way = _means_along(codes[ends[0]], codes[ends[1]], made, method, seed)
  return [
    *drawn,
    _draw_codes(codes, domains, folder / 'codes.png'),
    _draw_way(way, ends, clients, domains, folder / 'way.png'),
  ]


def _are_codes_protected(method: HypeMethod) -> bool:
  """Whether codes are among what the noise is made for.

  They are where it hides records. Where it hides clients they stay with these.
  """
  protection = method.protection
  return protection is not None and protection.plan.unit == 'record'


class _Domains(NamedTuple):
  """Of each client the commonest domain of its rows, or else class."""

  names: list[str]
  are_domains: bool


def _draw_embeddings(
  clients: Clients,
  synthetic: Mapping[str, Synthetic],
  path: pathlib.Path,
  seed: int,
  domains: _Domains | None,
) -> Drawn:
  """Synthetic embeddings, and real ones where domains are shown."""
  rows = clients.rows
  return embedding_pictures.draw_embeddings(
    None if domains is None else _of_rows(rows, rows.test.order),
    {
      name: LabelledEmbeddings(made.inputs, made.labels)
      for name, made in synthetic.items()
    },
    path,
    class_names=clients.source.class_names,
    seed=seed,
  )


def _draw_clients(
  found: heads.Evaluation,
  name: str,
  domains: _Domains,
  path: pathlib.Path,
) -> Drawn:
  """What each client gets, of what is shared, of its own, and of both."""
  regimes = {
    'synthetic': f'{name}, shared alone',
    'local': 'own alone',
    'interpolated': 'both',
  }
  return client_pictures.draw_clients(
    {
      label: found.values[f'{regime}_balanced_accuracy']
      for regime, label in regimes.items()
    },
    path,
    client_names=[_client(client, domains) for client in found.clients],
  )


def _draw_codes(
  codes: np.ndarray, domains: _Domains | None, path: pathlib.Path
) -> Drawn:
  """The clients' codes, each marked by what it holds, where that is shown."""
  names = None if domains is None else domains.names
  found = embedding_pictures.draw_codes(codes, names, path)
  found = found._replace(made_by=(_OURS,))
  if domains is None or domains.are_domains:
    return found
  return found._replace(
    caption='Codes of the clients in their first two principal components, '
    'marked by the client’s most frequent class.'
  )


def _means_along(
  first: np.ndarray,
  last: np.ndarray,
  made: Synthetic,
  method: HypeMethod,
  seed: int,
) -> np.ndarray:
  """`[S, C, F]` class means of what codes between two others make."""
  codes = meta_code.interpolated(
    jnp.asarray(first), jnp.asarray(last), _WAY_STEPS
  )
  personals = jax.jit(
    jax.vmap(functools.partial(method.model.personalise, made.hyper))
  )(codes)
  means = [
    meta_code.generated_moments(
      method.model,
      made.hyper,
      trees.take(personals, step),
      jax.random.key(seed),  # the same latents all the way
      _WAY_SAMPLES,
    ).means
    for step in range(_WAY_STEPS)
  ]
  return np.stack(means)


def _draw_way(
  means: np.ndarray,
  ends: tuple[int, int],
  clients: Clients,
  domains: _Domains | None,
  path: pathlib.Path,
) -> Drawn:
  """The way from one client's code to another's, and what both hold."""
  both = None
  if domains is not None:
    first, last = (
      _of_rows(clients.rows, clients.partition.rows(end)) for end in ends
    )
    both = first, last
  found = embedding_pictures.draw_way(
    means,
    both,
    path,
    end_names=(_client(ends[0], domains), _client(ends[1], domains)),
    class_names=clients.source.class_names,
  )
  return found._replace(made_by=(_OURS,))


def _domains(clients: Clients) -> _Domains:
  source, train = clients.source, clients.source.train
  ids, names, are_domains = train.labels, source.class_names, False
  if train.groups is not None and len(source.group_names) > 1:
    ids, names, are_domains = train.groups, source.group_names, True
  found = []
  for client in range(clients.partition.num_clients):
    held = ids[clients.partition.rows(client)]
    found.append(names[np.bincount(held).argmax()] if len(held) else 'empty')
  return _Domains(found, are_domains)


def _furthest(codes: np.ndarray, sizes: np.ndarray) -> tuple[int, int] | None:
  """The two clients, among those with rows, with codes furthest apart."""
  held = np.flatnonzero(sizes)
  if len(held) < 2:
    return None
  points = codes[held]
  # From the one furthest out, not over all pairs, which may be millions.
  out = np.linalg.norm(points - points.mean(axis=0), axis=1).argmax()
  other = np.linalg.norm(points - points[out], axis=1).argmax()
  if out == other:  # all alike
    return None
  first, last = sorted((int(held[out]), int(held[other])))
  return first, last


def _of_rows(rows: heads.ClientRows, which: np.ndarray) -> LabelledEmbeddings:
  return LabelledEmbeddings(rows.inputs[which], rows.labels[which])


def _client(client: int, domains: _Domains | None) -> str:
  if domains is None:
    return f'client {client}'
  return f'client {client} ({domains.names[client]})'
