"""The training loop and what it calls, evaluation, metrics, classic baselines, several processes."""
