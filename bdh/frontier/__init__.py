"""Frontier metrics, each with its null, interval and controls."""
