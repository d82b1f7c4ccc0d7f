"""How do I tune a generative model on preferences or rewards?"""
