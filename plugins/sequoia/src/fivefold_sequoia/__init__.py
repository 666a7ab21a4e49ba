"""Sequoia: the tree with the most expected tokens for this draft and this machine."""
