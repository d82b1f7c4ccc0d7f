"""Whom do I seed, or what do I reveal, when others pass it on?"""
