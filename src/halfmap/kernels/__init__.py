"""Compiled loops on numpy arrays, for the few places where they beat tensor operations."""
