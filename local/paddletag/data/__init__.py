"""Sounds and data sets: decoding sounds, reading raw data sets, the list of clips, how they are divided."""
