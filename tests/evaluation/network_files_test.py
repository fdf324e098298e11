import sys
import warnings

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.networks import features

_INPUTS = np.random.default_rng(0).integers(0, 256, [130, 4, 6, 3], np.uint8)


def _torchscript(tmp_path, with_options):
  """Writes a network that answers in NVIDIA's way, or a plain one."""
  torch = pytest.importorskip('torch', reason='extra fedjax_gen[torchscript]')

  class Plain(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
      return img.to(torch.float32).mean([2, 3])

  class WithOptions(torch.nn.Module):
    def forward(
      self,
      img: torch.Tensor,
      return_features: bool = False,
      no_output_bias: bool = False,
    ) -> torch.Tensor:
      assert img.dtype == torch.uint8
      means = img.to(torch.float32).mean([2, 3])
      if return_features:
        return means
      if no_output_bias:
        return torch.softmax(means, 1)
      return torch.zeros(1, 1)

  path = tmp_path / 'inception-2015-12-05.pt'
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    network = torch.jit.script(WithOptions() if with_options else Plain())
  network.save(str(path))
  return f'torchscript:{path}'


def _onnx(tmp_path, dtype='UINT8', channels=3, outputs=('features',)):
  """Writes a network whose outputs are all the channels' means."""
  onnx = pytest.importorskip('onnx', reason='onnx writes the test network')
  pytest.importorskip('onnxruntime', reason='extra fedjax_gen[onnx]')
  helper, types = onnx.helper, onnx.TensorProto
  nodes = [helper.make_node('Cast', ['images'], ['real'], to=types.FLOAT)]
  nodes += [
    helper.make_node('ReduceMean', ['real', 'axes'], [name], keepdims=0)
    for name in outputs
  ]
  graph = helper.make_graph(
    nodes,
    'means',
    [
      helper.make_tensor_value_info(
        'images', getattr(types, dtype), ['n', channels, 'h', 'w']
      )
    ],
    [
      helper.make_tensor_value_info(name, types.FLOAT, ['n', channels])
      for name in outputs
    ],
    [helper.make_tensor('axes', types.INT64, [2], [2, 3])],
  )
  opsets = [helper.make_opsetid('', 18)]
  model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
  path = tmp_path / 'my net.onnx'
  onnx.save(model, str(path))
  return f'onnx:{path}'


def test_torchscript_network_sees_all_images_as_uint8_rgb(tmp_path):
  made = features.file_extractor(_torchscript(tmp_path, with_options=True))
  assert made.name == 'inception-2015-12-05'
  assert 'SHA-256' in made.description
  np.testing.assert_allclose(
    made.features(_INPUTS), _INPUTS.mean(axis=(1, 2)), rtol=1e-5
  )
  probabilities = made.probabilities(_INPUTS)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
  grey = made.features(_INPUTS[..., :1])
  assert grey.shape == (130, 3)
  np.testing.assert_array_equal(grey[:, 0], grey[:, 2])


def test_torchscript_network_without_options_has_features_only(tmp_path):
  made = features.file_extractor(_torchscript(tmp_path, with_options=False))
  assert made.probabilities is None
  assert made.features(_INPUTS).shape == (130, 3)


@pytest.mark.parametrize('dtype', ['UINT8', 'FLOAT', 'DOUBLE'])
def test_onnx_network_gets_values_up_to_255_in_its_own_type(tmp_path, dtype):
  made = features.file_extractor(_onnx(tmp_path, dtype))
  assert made.name == 'my_net' and made.probabilities is None
  np.testing.assert_allclose(
    made.features(_INPUTS), _INPUTS.mean(axis=(1, 2)), rtol=1e-5
  )


def test_onnx_network_of_grey_images_gets_one_channel(tmp_path):
  source = _onnx(tmp_path, channels=1, outputs=('probabilities', 'features'))
  made = features.file_extractor(source)
  assert made.features(_INPUTS[..., :1]).shape == (130, 1)
  assert made.probabilities(_INPUTS[..., :1]).shape == (130, 1)
  with pytest.raises(InputError, match=r'my net.onnx refuses images .*3, 4, 6'):
    made.features(_INPUTS)


def test_onnx_network_with_unnamed_outputs_is_refused(tmp_path):
  with pytest.raises(InputError, match=r"output named features.*'a', 'b'"):
    features.file_extractor(_onnx(tmp_path, outputs=('a', 'b')))


@pytest.mark.parametrize(
  'kind, library', [('torchscript', 'torch'), ('onnx', 'onnxruntime')]
)
def test_missing_library_names_its_extra(tmp_path, monkeypatch, kind, library):
  path = tmp_path / 'net'
  path.write_bytes(b'any')
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(InputError, match=rf"'fedjax_gen\[{kind}\]'"):
    features.file_extractor(f'{kind}:{path}')


@pytest.mark.parametrize(
  'kind, library', [('torchscript', 'torch'), ('onnx', 'onnxruntime')]
)
def test_unreadable_file_is_refused_in_one_line(tmp_path, kind, library):
  pytest.importorskip(library, reason=f'extra fedjax_gen[{kind}]')
  path = tmp_path / 'net.bin'
  path.write_bytes(b'not a network')
  with pytest.raises(InputError, match='Cannot read .*net.bin') as raised:
    features.file_extractor(f'{kind}:{path}')
  assert '\n' not in str(raised.value)
  with pytest.raises(InputError, match='Cannot read .*: No such file'):
    features.file_extractor(f'{kind}:{tmp_path}/missing')


@pytest.mark.parametrize('source', ['inception', 'onnx:', 'keras:net.h5', ''])
def test_there_is_no_default_network(source):
  with pytest.raises(InputError, match='onnx:PATH or torchscript:PATH'):
    features.file_extractor(source)
