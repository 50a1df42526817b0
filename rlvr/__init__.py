"""RLVR post-training of reasoning models: GRPO with swappable entropy controls and verifiable rewards.

Nothing heavy is imported here: `import rlvr` and `rlvr --help` answer at once.
"""

__version__ = "0.1.0"
