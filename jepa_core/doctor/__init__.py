"""`jepa doctor`: is this machine, and this installation, fit to train?

Every finding is a `Check`: ok, a warning (it works, but not as it could) or a problem (something will fail),
with what to do about it. A look that fails is itself a problem, and the others still take place.
"""
