"""Waveforms to log-mels: front ends, stored and online features, augmentation, batches."""
