"""Defaults of engines, for whoever has to know them without loading one."""

DEFAULT_ANSWER_CUE = "\n\nTherefore, the final answer is"
"""What makes a model without thinking markers answer in the middle of its chain of thought. Measured (LOG.md): without
"Therefore" models go on reasoning, and a cue that ends in a brace costs minus signs."""

DM_GPU_SHARE, PRM_GPU_SHARE = 0.1, 0.3
"""Of a GPU's memory, for a DM and for a process reward model, unless told otherwise."""
