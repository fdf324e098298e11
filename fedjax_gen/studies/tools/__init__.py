"""Programs that train nothing: embeddings of images, samples of models."""
