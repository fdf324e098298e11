"""FissionVAE: VAEs over groups of clients with different kinds of images."""
