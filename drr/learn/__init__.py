"""From behaviour to a DM: the Reasoner's attempts rolled out and graded, kept as records, learned from and measured.
It promises nothing: that is drr.certify.
"""
