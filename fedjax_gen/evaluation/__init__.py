"""How good the generated images are: metrics, embeddings and pictures.

`features` says what a distance is measured with, `distances` holds the
metrics on features, `samples` puts both together under metric names that
carry the extractor, `utility` trains on synthetic and tests on real data,
`neighbours` asks whether a model memorises, and `pictures` and `charts` write
the PNG files. Everything takes uint8 images `[n, H, W, C]`.
"""
