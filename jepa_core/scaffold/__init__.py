"""`jepa plugins new`: writes a plugin as a distribution of its own, which works at once.

What is unusual: the templates name no method. The new plugin's recipe extends the `selftest` recipe of a
plugin that is installed, so what it trains with is known to train.
"""
