"""Texts that are not news, written by grammars in code: what the topic networks learn to doubt."""
