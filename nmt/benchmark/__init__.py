"""Measuring what a model costs and what it gains: quality, speed, memory, size, beside other toolkits."""
