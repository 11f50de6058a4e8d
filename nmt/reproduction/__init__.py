"""Reproductions of papers: recipes that train, shrink and measure models side by side.

It uses training and benchmarks, so in the order of imports it stands between the commands and the four verbs.
"""
