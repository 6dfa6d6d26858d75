"""Builders and domain assertions that tests share."""
