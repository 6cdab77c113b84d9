"""Tagging of whole archives: what a source lists, its parts, object stores, Ray, and what was found in the results."""
