"""How good the autoencoder is, beside PCA, thumbnails and public peers: `python -m benchmarks.quality`."""
