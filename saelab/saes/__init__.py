"""SAE architectures, one a file: config, weights, encode, losses, formula and paper."""
