"""Predictions of many images by many processes: what is planned, done and stored, shard by shard.

Only :mod:`cascade.cluster.ray_engine` knows Ray; all else runs, and is tested, in one process.
"""
