"""Profiles, prompts, the rubric of the judge, prices; `settings.py` types them."""
