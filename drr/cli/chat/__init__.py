"""`drr chat`: a model thinking in the terminal, with a judge's scores in the margin."""
