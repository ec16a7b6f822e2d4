"""The curvature command: `run` scores every sample, `stability` asks how far the scores depend on h and niter."""
