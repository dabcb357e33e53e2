"""`jepa doctor`: can this machine, with this installation, train?

Every result is a `Check`: ok, a warning (it works, but slower or less than it could) or a problem (something
will fail), with what to do about it. A check that fails itself is a problem, and the others still run.
"""
