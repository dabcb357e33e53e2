"""`jepa plugins new`: writes a plugin as a distribution of its own, which installs and trains at once.

What is unusual: the templates name no method. The new plugin's recipe extends the `selftest` recipe of an
installed plugin, so it starts from a recipe that is known to train.
"""
