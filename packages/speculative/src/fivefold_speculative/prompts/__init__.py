"""Prompt sets: `chat.jsonl`, 80 hand-written prompts in eight kinds, half of them held out."""
