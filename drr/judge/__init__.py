"""Judges of step boundaries and their files: the DM's input, head and folder, scorers that need no training, and the
data of a calibration. No model is run or trained here.
"""
