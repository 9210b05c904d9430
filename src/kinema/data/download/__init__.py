"""Fetching data sets: from where, under which licence, safely."""
