"""Who judges a step boundary, and what a judge is on disk: the DM's input, head and folder, scorers without training,
the data of a calibration. It neither runs a model nor trains one.
"""
