"""How good generated images and embeddings are: metrics and pictures.

Of uint8 images `[n, H, W, C]`: `features` says what a distance is measured
with, `distances` holds the metrics on features, `samples` puts both together
under metric names that carry the extractor, `utility` trains on synthetic and
tests on real data, `neighbours` asks whether a model memorises, `vaes` and
`groups` measure all of it of one model and by group.

Of embeddings `[n, F]`: `heads` asks what linear classifiers of clients gain,
`embedding_quality` how far synthetic ones are from real ones, `membership` what
they give away.

`pictures`, `charts`, and the modules with `gallery` or `pictures` in their
names, write the PNG files.
"""
