"""Backbones by name, their weights, and trained models as folders."""
