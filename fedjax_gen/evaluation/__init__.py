"""How good generated images and embeddings are: metrics and pictures.

For uint8 images `[n, H, W, C]`: `features` are the networks that distances use,
`distances` the metrics on features, `samples` both under metric names that
include the network, `utility` training on synthetic and testing on real data,
`neighbours` whether a model memorises; `vaes` and `groups` measure all of it
for one model and by group.

For embeddings `[n, F]`: `heads` measures what linear classifiers of clients
gain, `embedding_quality` how far synthetic embeddings are from real ones,
`membership` what they reveal.

`pictures`, `charts`, and the modules with `gallery` or `pictures` in their
names, write the PNG files.
"""
