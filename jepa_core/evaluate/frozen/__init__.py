"""Evaluations of frozen features that are made on request: layers, low-shot, many heads, retrieval, shift.

They share one extraction (`bank.py`): features of the training split and of the scored split are taken once
for all evaluations of one `jepa eval`.
"""
