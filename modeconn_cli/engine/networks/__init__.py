"""Networks: models, checkpoints, the graph, weights and the distances between them."""
