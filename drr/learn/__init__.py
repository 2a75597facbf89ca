"""From behaviour to a DM: roll out and grade the Reasoner's attempts, keep them as records, train a DM and measure it.
Promises about the DM are made in drr.certify.
"""
