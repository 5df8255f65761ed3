"""Training data: collected with consent and masked, prepared for one model, in versions that never change.

Modules are imported by name: ``collecting.collect``, ``preparing.prepare``, ``removing.remove``, ``loading``.
"""
