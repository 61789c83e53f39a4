"""Folders that a run or an import has written: their recipe, vocabulary and weights."""
